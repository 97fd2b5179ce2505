"""rag_hpc: take a RAG prototype to a Slurm cluster one stage at a time, with the same answers as the baseline."""

__version__ = "0.1.0"
