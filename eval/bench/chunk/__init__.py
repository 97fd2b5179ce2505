"""Chunking beside text splitters."""
