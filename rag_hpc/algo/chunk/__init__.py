"""Texts cut into passages."""
