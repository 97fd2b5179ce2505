"""Web archives, local and of Common Crawl."""
