"""The crawl benchmark on a web of 20 hosts: both sides fetch the same pages, and the server's log is the judge."""

from __future__ import annotations

from typing import Any

import pytest

from rag_hpc.eval.bench.crawl import crawl, webserver
from rag_hpc.eval.bench.crawl.webserver import WebOptions

pytestmark = pytest.mark.timeout(600)
WEB = WebOptions(hosts=20, pages_per_host=3, latency=0.01)


def pages(found: crawl.Crawled) -> list[tuple[str, str]]:
    return sorted((host, path) for _, host, path in found.arrivals if path != webserver.SITEMAP)


def test_ours_and_scrapy_fetch_the_same_pages_each_once() -> None:
    pytest.importorskip("scrapy", reason="the peer; pip install 'rag-hpc[bench]'")
    ours, scrapy = crawl.crawl_ours(WEB, "corpus.delay_s=0"), crawl.crawl_scrapy(WEB)
    assert ours.pages == scrapy.pages == 60
    assert pages(ours) == pages(scrapy)
    assert len(scrapy.arrivals) == 80  # robots.txt of each host too
    assert ours.stage is not None and 0 < ours.stage.cpu_s < ours.cpu_s
    assert webserver.violations(ours.arrivals, WEB.latency) == []


def test_rows_of_a_small_run_hold_figures_and_a_judgement() -> None:
    scheduled, impolite = crawl.run({"parts": "schedule", "hosts": "20", "schedule_pages": "1"})
    assert (impolite.name, impolite.ours, impolite.met) == ("crawl.impolite", 0, True)
    assert scheduled.ratio is not None and 0 < scheduled.ratio <= 1.001
    assert scheduled.ours == pytest.approx(scheduled.ratio * scheduled.peers["bound"])


def test_the_peer_follows_links_inside_the_host_without_repeats() -> None:
    http = pytest.importorskip("scrapy.http", reason="the peer; pip install 'rag-hpc[bench]'")
    from rag_hpc.eval.bench.crawl.scrapy_peer import make_spider

    body = webserver.make_pages(WebOptions(hosts=2, pages_per_host=5), 0)["/"].partition(b"\r\n\r\n")[2]
    reply = http.HtmlResponse("http://h000.web.test:81/", body=body)
    item, *requests = make_spider([])().parse(reply)
    urls: list[Any] = sorted(request.url for request in requests)
    assert item == {"url": reply.url, "size": len(body)}
    linked = sorted({webserver.page_path(n) for n in range(1, 5)} | {"/", "/private/0.html"})
    assert [url.removeprefix("http://h000.web.test:81") for url in urls] == linked
