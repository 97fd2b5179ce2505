"""Near-duplicates: signatures, candidates, components."""
