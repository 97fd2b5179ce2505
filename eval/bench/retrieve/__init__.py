"""Retrieval beside Lucene's own batch search, and ranks beside FAISS in one process."""
