"""The crawl benchmark's peer: a Scrapy spider that fetches the same pages and prints how many there were, as JSON.

`python -m rag_hpc.eval.bench.crawl.scrapy_peer --port PORT --hosts 500 --delay 0`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from rag_hpc.eval.bench.crawl.webserver import host_names, seeds

SETTINGS: dict[str, Any] = {  # docs/topics/broad-crawls.rst of Scrapy, and one request at a time to a host
    "CONCURRENT_REQUESTS": 256,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
    "SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.DownloaderAwarePriorityQueue",
    "RANDOMIZE_DOWNLOAD_DELAY": False,
    "AUTOTHROTTLE_ENABLED": False,
    "ROBOTSTXT_OBEY": True,
    "LOG_LEVEL": "ERROR",
    "HTTPCACHE_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
    "COOKIES_ENABLED": False,
    "RETRY_ENABLED": False,
    "REFERER_ENABLED": False,
    "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
    "USER_AGENT": "scrapy-peer/1.0",
}


def make_spider(starts: list[str]) -> type:
    """Return a spider that follows the links inside each host and yields the length of each page."""
    import scrapy

    class Peer(scrapy.Spider):
        name = "peer"

        async def start(self) -> AsyncIterator[Any]:
            for url in starts:
                yield scrapy.Request(url)  # Scrapy's own start() lets the first page be fetched twice

        def parse(self, response: Any, **kwargs: Any) -> Iterator[Any]:
            yield {"url": response.url, "size": len(response.body)}
            root = response.url[: response.url.index("/", 8)]
            for href in {href.partition("#")[0] for href in response.xpath("//a/@href").getall()}:
                if href.startswith("/"):  # cheaper than LinkExtractor, whose links are the same here
                    yield scrapy.Request(root + href)

    return Peer


def main(argv: Sequence[str] | None = None) -> int:
    """Crawl, print {"pages": ..., "bytes": ..., "wall_s": ...}."""
    from scrapy import signals
    from scrapy.crawler import CrawlerProcess
    from scrapy.resolver import dnscache

    parser = argparse.ArgumentParser(prog="python -m rag_hpc.eval.bench.crawl.scrapy_peer")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args(argv)
    dnscache.update(dict.fromkeys(host_names(options.hosts), "127.0.0.1"))  # what its resolver asks first
    sizes: list[int] = []
    process = CrawlerProcess({**SETTINGS, "DOWNLOAD_DELAY": options.delay})
    crawler = process.create_crawler(make_spider(seeds(options.hosts, options.port)))
    crawler.signals.connect(lambda item: sizes.append(item["size"]), signal=signals.item_scraped, weak=False)
    begun = time.monotonic()
    process.crawl(crawler)
    process.start()
    print(json.dumps({"pages": len(sizes), "bytes": sum(sizes), "wall_s": time.monotonic() - begun}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
