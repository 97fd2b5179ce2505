"""One file a source of documents."""
