"""Many hosts at once: polite by the server's own log, the same items whatever the timing, and nothing asked twice."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from crawlsite import Handler, Route, Site, context, corpus, html, redirect, serving

from rag_hpc.errors import Interrupted
from rag_hpc.sources.crawl import crawler
from rag_hpc.sources.crawl.config import ScopeName
from rag_hpc.sources.crawl.crawler import crawl_hosts
from rag_hpc.sources.crawl.frontier import HostPlan
from rag_hpc.sources.crawl.journal import Journal, Reply
from rag_hpc.stores.page import Page, Reject

LATE_S = 0.02  # so much later than it arrived a request may be logged, by a thread of this busy process
HOSTS = [f"h{number}.web.test" for number in range(5)]


def web(num_pages: int = 12, seed: int = 1) -> dict[str, Route]:
    """A site that each host serves: page 0 and others link to all the rest, some are missing or moved."""
    dice = random.Random(seed)
    routes: dict[str, Route] = {"/": html("/0", "/gone")}
    for number in range(num_pages):
        links = [f"/{dice.randrange(num_pages)}" for _ in range(4)] + [f"/{number + 1}"]
        routes[f"/{number}"] = html(*links, text=f"page {number} " * 50)
    routes["/5"] = redirect("/7")
    return routes


def plans(hosts: list[str] | None = None, **more: Any) -> list[HostPlan]:
    return [HostPlan(host=host, seeds=[(f"http://{host}/", 0)], **more) for host in hosts or HOSTS]


def crawl(
    site: Site,
    *,
    carry: Path | None = None,
    stop: Any = lambda: False,
    hosts: list[str] | None = None,
    previous: Any = (),
    plan: dict[str, Any] | None = None,
    **changes: Any,
) -> list[Page | Reject]:
    config = corpus(resolve=site.resolve, **changes)
    ctx = context(carry=carry, attempt="a", should_stop=stop, previous=iter(previous))
    return list(crawl_hosts(plans(hosts, **(plan or {})), config, ctx))


def told(items: list[Page | Reject]) -> list[Any]:
    """What an item is, without the time at which it came."""
    return [(i.doc_id, i.body, i.meta, i.links) if isinstance(i, Page) else (i.id, i.reason, i.detail) for i in items]


def gaps(site: Site) -> list[float]:
    by_host: dict[str, list[float]] = {}
    for when, host, _ in site.arrivals:
        by_host.setdefault(host, []).append(when)
    return [after - before for times in by_host.values() for before, after in pairwise(times)]


class Jitter:
    """A route that answers after a while that differs from one request to the next."""

    def __init__(self, reply: Any, seed: int) -> None:
        self.reply, self.dice = reply, random.Random(seed)

    def __call__(self, handler: Handler) -> None:
        time.sleep(self.dice.random() * 0.02)
        status, headers, body = self.reply
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def test_items_depend_neither_on_timing_nor_on_concurrency() -> None:
    found = []
    for seed, concurrency in ((1, 1), (2, 3), (3, 256)):
        with serving({path: Jitter(route, seed) for path, route in web().items()}) as site:
            found.append(told(crawl(site, concurrency=concurrency)))
    assert found[0] == found[1] == found[2]
    assert [item[0] for item in found[0]].count("http://h3.web.test/7") == 1
    assert len(found[0]) == len(HOSTS) * 15  # twelve pages, of which one has moved to another, /, /gone and /12


def test_one_request_at_a_time_and_the_delay_between_them_by_the_servers_log() -> None:
    busy: Counter[str] = Counter()
    overlaps = []

    def watched(reply: Any) -> Any:
        def answer(handler: Handler) -> None:
            host = handler.headers["Host"]
            busy[host] += 1
            overlaps.append(busy[host])
            time.sleep(0.005)
            busy[host] -= 1
            Jitter(reply, 1)(handler)

        return answer

    with serving({path: watched(route) for path, route in web(6).items()}) as site:
        crawl(site, delay_s=0.1, timeout_s=20.0)
        assert max(overlaps) == 1
        assert min(gaps(site)) >= 0.1 - LATE_S
        assert statistics.median(gaps(site)) < 0.15


def test_the_ports_of_a_host_share_its_delay_and_the_wait_that_it_asks_for() -> None:
    ports = ["h0.web.test", "h0.web.test:81", "h0.web.test:82"]
    busy: Route = [(503, {"Retry-After": "1"}, b""), html()]
    with serving({"/": html("/a", "/b"), "/a": html(), "/b": html(), "h0.web.test:82/b": busy}) as site:
        config = corpus(resolve={"*.web.test*": site.host}, delay_s=0.05)
        found = list(crawl_hosts(plans(ports), config, context()))
        assert len([item for item in found if isinstance(item, Page)]) == 9
        arrivals = [when for when, _, _ in site.arrivals]
        apart = [after - before for before, after in pairwise(arrivals)]
        assert min(apart) >= 0.05 - 0.005
        assert max(apart) >= 0.95


def test_a_port_that_waits_for_its_turn_gives_up_when_another_is_told_to_wait_for_an_hour() -> None:
    ports = ["h0.web.test", "h0.web.test:81"]
    with serving({"/": html(), "h0.web.test/robots.txt": (503, {"Retry-After": "3600"}, b"")}) as site:
        stop = time.monotonic() + 20
        config = corpus(resolve={"*.web.test*": site.host})
        found = list(crawl_hosts(plans(ports), config, context(should_stop=lambda: time.monotonic() > stop)))
        assert [item.reason for item in found if isinstance(item, Reject)] == ["robots-unavailable"] * 2
        assert len(site.arrivals) == 1


def test_a_crawl_delay_of_one_port_holds_for_all() -> None:
    robots: Route = (200, {}, b"User-agent: *\nCrawl-delay: 0.2\n")
    with serving({"/": html("/a"), "/a": html(), "h0.web.test:81/robots.txt": robots}) as site:
        config = corpus(resolve={"*.web.test*": site.host})
        list(crawl_hosts(plans(["h0.web.test", "h0.web.test:81"]), config, context()))
        apart = [after - before for (before, _, _), (after, _, _) in pairwise(site.arrivals)]
        told_at = [path + host[11:] for _, host, path in site.arrivals].index("/robots.txt:81")
        assert min(apart[told_at + 1 :]) >= 0.2 - 0.005


def test_concurrency_caps_the_requests_in_flight() -> None:
    lock, now, most, two = threading.Lock(), [0], [0], threading.Event()

    def slow(handler: Handler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if most[0] == 2:
            two.set()
        two.wait(30)
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        Jitter(html(), 1)(handler)

    with serving({"/": slow}) as site:
        crawl(site, concurrency=2, hosts=[f"n{number}.web.test" for number in range(12)])
    assert most[0] == 2


@pytest.mark.parametrize("stop_after", [1, 9, 30])
def test_a_stopped_crawl_goes_on_without_asking_again(
    tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler, "TICK_S", 0.05)
    with serving(web()) as site:
        whole = told(crawl(site))
        site.arrivals.clear()
        with pytest.raises(Interrupted):
            crawl(site, carry=tmp_path, stop=lambda: len(site.arrivals) >= stop_after, delay_s=0.06)
        first = len(site.arrivals)
        assert told(crawl(site, carry=tmp_path, delay_s=0.06)) == whole
        asked = Counter((host, path) for _, host, path in site.arrivals)
        again = sum(asked.values()) - len(asked)
        assert again <= len(HOSTS)  # those in flight when it was stopped
        assert 0 < first < len(asked)
        assert min(gaps(site)) >= 0.06 - LATE_S
        site.arrivals.clear()
        assert told(crawl(site, carry=tmp_path)) == whole
        assert site.arrivals == []


def test_an_attempt_that_takes_over_waits_until_the_one_before_has_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler, "TICK_S", 3.0)
    routes: dict[str, Route] = {"/": html("/0"), **{f"/{number}": html(f"/{number + 1}") for number in range(6)}}
    fenced = threading.Event()

    def fenced_crawl() -> None:
        with pytest.raises(Interrupted):
            crawl(site, carry=tmp_path, hosts=HOSTS[:1], delay_s=0.2, stop=fenced.is_set, timeout_s=4.0)  # looks each s

    with serving(routes) as site:
        before = threading.Thread(target=fenced_crawl)
        before.start()
        while len(site.arrivals) < 4:
            time.sleep(0.01)
        fenced.set()
        found = crawl(site, carry=tmp_path, hosts=HOSTS[:1], delay_s=0.2)
        before.join()
        assert len([item for item in found if isinstance(item, Page)]) == 7
        assert min(gaps(site)) >= 0.2 - LATE_S


def test_a_journal_gives_back_what_it_got_and_ignores_a_torn_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    replies = {
        f"page {n}": Reply(url=f"http://h/{n}", status=200, body=b"x" * n, etag='"\u00e9"', fetched_unix=1.5)
        for n in range(5)
    }
    for key, reply in replies.items():
        journal.add(key, reply)
    journal.close()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    for cut in range(len(data)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "old.journal").write_bytes(data[:cut])
        again = Journal(folder, "two")
        kept = {key: again.get(key) for key in replies if key in again}
        again.close()
        assert again.resumed and list(kept.items()) == list(replies.items())[: len(kept)]
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    path.write_bytes(damaged)
    again = Journal(tmp_path, "three")
    assert 0 < len(again) < 5
    again.close()


def test_pages_that_have_not_changed_are_taken_from_the_earlier_run() -> None:
    def tagged(handler: Handler) -> None:
        fresh = handler.headers.get("If-None-Match") == '"v1"'
        handler.send_response(304 if fresh else 200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Type", "text/html")
        body = b"" if fresh else b"<p>the body <a href=/dated>x</a>"
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    dated: Route = (200, {"Content-Type": "text/html", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, b"new")
    with serving({"/": tagged, "/dated": dated}) as site:
        before = crawl(site, hosts=HOSTS[:1])
        rows = [
            {
                "doc_id": p.doc_id,
                "url": p.url,
                "content_type": p.content_type,
                "charset": p.charset,
                "body": p.body,
                "meta": json.dumps(p.meta),
            }
            for p in before
            if isinstance(p, Page)
        ]
        site.seen.clear()
        after = crawl(site, hosts=HOSTS[:1], previous=rows)
        assert told(after) == told(before)
        assert [page.reused for page in after if isinstance(page, Page)] == [True, False]
        assert site.seen[-1][1]["If-Modified-Since"] == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_a_304_to_a_question_that_was_not_conditional_is_no_page() -> None:
    with serving({"/": (304, {}, b"")}) as site:
        (found,) = crawl(site, hosts=HOSTS[:1])
        assert isinstance(found, Reject) and found.reason == "http-304"


def test_patterns_hold_for_seeds_links_and_redirects() -> None:
    routes: dict[str, Route] = {
        "/": html("/a", "/b.pdf", "/old", "/private"),
        "/a": html(),
        "/private": html(),
        "/old": redirect("/private"),
        "/b.pdf": html(),
    }
    with serving(routes) as site:
        found = crawl(site, hosts=HOSTS[:1], deny=[r"\.pdf$", "private"], allow=["^http://h0"])
        assert [item.doc_id for item in found if isinstance(item, Page)] == [
            "http://h0.web.test/",
            "http://h0.web.test/a",
        ]
        assert {item.id: item.reason for item in found if isinstance(item, Reject)} == {
            "http://h0.web.test/old": "redirect-denied",
            "h0.web.test": "url-denied",
        }
        assert not {"/private", "/b.pdf"} & set(site.asked)


def test_canonical_links_of_the_host_are_noted_and_followed() -> None:
    def page(head: str) -> Route:
        return 200, {"Content-Type": "text/html"}, f"<head>{head}</head>".encode()

    routes: dict[str, Route] = {
        "/": page('<link href="/real" rel="canonical">'),
        "/real": page("<LINK REL=canonical HREF='/real'>"),
        "/far": page('<link rel="canonical" href="http://elsewhere.test/">'),
        "/script": page("<script>'<link rel=canonical href=/no>'</script>"),
    }
    with serving(routes) as site:
        found = crawl(site, hosts=HOSTS[:1])
        assert [(item.url, item.meta.get("canonical")) for item in found if isinstance(item, Page)] == [
            ("http://h0.web.test/", "http://h0.web.test/real"),
            ("http://h0.web.test/real", None),
        ]


def test_links_to_other_hosts_come_once_a_host_and_only_those_in_scope() -> None:
    links = ("http://docs.web.test/x#f", "http://other.test/", "/a", "http://h0.web.test/b", "http://evilweb.test/")
    second = html("http://docs.web.test/x", "http://www.web.test/y")
    with serving({"/": html(*links), "/a": second, "/b": html()}) as site:
        settings: dict[str, Any] = {"hosts": HOSTS[:1], "seeds": ["http://www.web.test/"]}
        found = {
            scope: [item.links for item in crawl(site, scope=scope, **settings) if isinstance(item, Page)]
            for scope in ScopeName
        }
    assert found[ScopeName.host] == [[], ["http://www.web.test/y"], []]
    assert found[ScopeName.domain] == [["http://docs.web.test/x"], ["http://www.web.test/y"], []]
    assert found[ScopeName.any][0] == ["http://docs.web.test/x", "http://other.test/", "http://evilweb.test/"]
