"""Prompts, citations and measures of answers."""
