"""BM25 beside one Lucene index with Lucene's own scorer, Anserini's batch search, and bm25s."""
