"""The web of the crawl benchmark: the same for a seed, all of it reachable, and an exact judge of who was too quick."""

from __future__ import annotations

import http.client
import re
import statistics
import time
from pathlib import Path
from urllib.robotparser import RobotFileParser

import pytest
import yaml

from rag_hpc.errors import ClusterError
from rag_hpc.eval.bench.crawl import webserver
from rag_hpc.eval.bench.crawl.webserver import WebOptions, make_pages, page_path, violations


def body(reply: bytes) -> str:
    return reply.partition(b"\r\n\r\n")[2].decode()


def links(reply: bytes) -> set[str]:
    return set(re.findall(r'href="(/[^"#]*)', body(reply)))


def test_pages_depend_on_the_seed_the_host_and_nothing_else() -> None:
    first, again = (make_pages(WebOptions(hosts=3, pages_per_host=4), 1) for _ in range(2))
    assert first == again
    assert first != make_pages(WebOptions(hosts=3, pages_per_host=4, seed=2), 1)
    assert first["/"] != make_pages(WebOptions(hosts=3, pages_per_host=4), 2)["/"]


@pytest.mark.parametrize("num_pages", [1, 2, 9, 80])
def test_every_page_is_reached_from_the_first_and_no_link_is_dead(num_pages: int) -> None:
    replies = make_pages(WebOptions(hosts=2, pages_per_host=num_pages), 0)
    known, queue = {"/"}, ["/"]
    while queue:
        found = {link for link in links(replies[queue.pop()]) if not link.startswith(webserver.PRIVATE)} - known
        known |= found
        queue += sorted(found)
    assert known == {page_path(number) for number in range(num_pages)}


def test_with_a_sitemap_the_first_page_leads_nowhere_and_the_sitemap_everywhere() -> None:
    replies = make_pages(WebOptions(hosts=2, pages_per_host=5, sitemap=True), 1)
    assert all(link.startswith(webserver.PRIVATE) for link in links(replies["/"]))
    assert "Sitemap: http://h001.web.test/sitemap.xml" in body(replies["/robots.txt"])
    located = re.findall(r"<loc>http://h001\.web\.test([^<]*)</loc>", body(replies["/sitemap.xml"]))
    assert located == [page_path(number) for number in range(5)]


def test_robots_forbids_the_private_links_and_may_ask_for_a_delay() -> None:
    replies = make_pages(WebOptions(hosts=1, pages_per_host=1, crawl_delay=2), 0)
    parser = RobotFileParser()
    parser.parse(body(replies["/robots.txt"]).splitlines())
    assert not parser.can_fetch("*", "http://h000.web.test/private/0.html") and parser.can_fetch("*", "/")
    assert parser.crawl_delay("*") == 2
    assert "/private/0.html" in links(replies["/"])


def test_sizes_are_skewed_as_pages_are() -> None:
    options = WebOptions(hosts=60, pages_per_host=10)
    replies = [make_pages(options, host) for host in range(60)]
    sizes = [len(reply) for host in replies for path, reply in host.items() if path != webserver.ROBOTS]
    assert 14_000 < statistics.fmean(sizes) < 24_000
    assert statistics.median(sizes) < 0.7 * statistics.fmean(sizes)
    assert max(sizes) < webserver.MAX_BYTES + 30_000


def test_too_early_is_by_host_and_forbidden_paths_count() -> None:
    arrivals = [(1.0, "a", "/"), (1.5, "b", "/"), (2.0, "a", "/1"), (2.9, "a", "/2"), (9.0, "b", "/private/x")]
    assert violations(arrivals, 1.0) == [(2.9, "a", "/2"), (9.0, "b", "/private/x")]
    assert violations(arrivals[::-1], 0.5) == [(9.0, "b", "/private/x")]


def test_a_served_page_comes_after_the_latency_and_stands_in_the_log(tmp_path: Path) -> None:
    options = WebOptions(hosts=2, pages_per_host=2, latency=0.03, corpus=str(tmp_path / "corpus" / "web.yaml"))
    with webserver.serving(options) as web:
        client = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
        begun = time.monotonic()
        got = []
        for host, path in (("h001.web.test", "/"), ("H000.web.test:8080", "/robots.txt"), ("nobody", "/")):
            client.request("GET", path, headers={"Host": host})
            reply = client.getresponse()
            got.append((reply.status, reply.read()))
        spent = time.monotonic() - begun
        client.close()
        asked = yaml.safe_load((tmp_path / "corpus" / "web.yaml").read_text())
    assert [status for status, _ in got] == [200, 200, 404]
    assert got[0][1] == make_pages(options, 1)["/"].partition(b"\r\n\r\n")[2]
    assert spent >= 3 * options.latency
    assert [(host, path) for _, host, path in web.arrivals] == [
        ("h001.web.test", "/"),
        ("h000.web.test", "/robots.txt"),
        ("nobody", "/"),
    ]
    assert begun <= web.arrivals[0][0] <= begun + spent
    assert asked["seeds"] == ["http://h000.web.test/", "http://h001.web.test/"]
    assert asked["resolve"] == {"*.web.test": f"127.0.0.1:{web.port}"}


def test_a_server_that_cannot_listen_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    options = WebOptions(address="192.0.2.1", hosts=1, pages_per_host=1)  # of a network for documentation
    with pytest.raises(ClusterError, match=r"192\.0\.2\.1"), webserver.serving(options):
        pass
    assert re.search("cannot assign|could not bind", capfd.readouterr().err)  # before and since Python 3.13
