"""Encoding and reranking beside the libraries that one would use otherwise."""
