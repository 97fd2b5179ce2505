"""Which ranking is handed on, judged on collections with relevance judgements."""
