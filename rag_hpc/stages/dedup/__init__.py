"""The five steps of near-duplicate removal."""
