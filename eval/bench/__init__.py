"""Benchmarks against the tools that users pick today, side by side in one run: `rag-hpc bench NAME [--json]`."""
