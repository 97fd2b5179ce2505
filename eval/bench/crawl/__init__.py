"""The crawl beside Scrapy."""
