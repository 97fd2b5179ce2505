"""One file a generator."""
