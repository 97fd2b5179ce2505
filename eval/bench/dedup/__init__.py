"""Near-duplicate removal beside datasketch, rensa and datatrove."""
