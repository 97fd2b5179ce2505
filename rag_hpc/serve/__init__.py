"""Answers to people who ask."""
