"""Reads results and never runs stages."""
