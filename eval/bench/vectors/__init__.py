"""Vector indexes: recall against queries a second, beside graphs of other libraries and exact search."""
