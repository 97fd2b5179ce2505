"""Training of encoders and rerankers: data, order, strategies, checkpoints, the loop."""
