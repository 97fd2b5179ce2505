"""Benchmarks beside peers, run by `rag-hpc bench NAME`."""
