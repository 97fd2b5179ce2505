"""Models: their folders, and the encoder, reranker and tokenizer that load from them."""
