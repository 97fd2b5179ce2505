"""Bench `laws`."""
