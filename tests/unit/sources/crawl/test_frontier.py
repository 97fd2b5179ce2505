"""One host's frontier, and what robots.txt and sitemaps say to it: replies are given by hand, nothing is asked."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from crawlsite import corpus, html

from rag_hpc.sources.crawl import robots, sitemaps
from rag_hpc.sources.crawl.config import ScopeName
from rag_hpc.sources.crawl.frontier import MAX_FAILURES, Found, HostCrawl, HostPlan
from rag_hpc.sources.crawl.journal import Ask, Reply
from rag_hpc.sources.crawl.scope import Scope
from rag_hpc.stores.page import Reject

ORIGIN = "http://h.test"
Answer = dict[str, Any]


def page(*links: str) -> Answer:
    status, headers, body = html(*links)
    return {"status": status, "content_type": headers["Content-Type"], "body": body}


def walk(
    answers: dict[str, Answer], max_pages: int = 0, max_urls: int = 1000, **settings: Any
) -> tuple[list[str], list[Found | Reject]]:
    """Return the paths that were asked for and the items of a crawl from "/"; what has no answer is not there."""
    config = corpus(**settings)
    plan = HostPlan(host="h.test", seeds=[(f"{ORIGIN}/", 0)], max_pages=max_pages, max_urls=max_urls)
    crawl, asked = HostCrawl(plan, config, Scope(config)), list[str]()

    def answer(ask: Ask) -> Reply:
        asked.append(ask.url.removeprefix(ORIGIN))
        return Reply(url=ask.url, **answers.get(asked[-1], {"status": 404}))

    drive(crawl.run(), answer)
    return asked, list(crawl.items)


def drive(steps: robots.Steps[Any], answer: Callable[[Ask], Reply]) -> Any:
    """Return what the steps return when each request has this answer."""
    try:
        ask = next(steps)
        while True:
            ask = steps.send(answer(ask))
    except StopIteration as end:
        return end.value


def caps(items: list[Found | Reject]) -> dict[str, int]:
    """Return reason -> the count in its detail, of the rejects that stand for many URLs."""
    return {
        item.reason: int(item.detail.split()[0]) for item in items if isinstance(item, Reject) and item.id == "h.test"
    }


def test_only_failures_in_a_row_make_a_host_count_as_down() -> None:
    links = [f"/p{n}" for n in range(2 * MAX_FAILURES + 4)]
    flaky = {
        link: page() if n % MAX_FAILURES == MAX_FAILURES - 1 else {"error": "timeout"} for n, link in enumerate(links)
    }
    _, items = walk({"/": page(*links), **flaky})
    assert {item.reason for item in items if isinstance(item, Reject)} == {"timeout"}


def test_replies_that_are_no_use_do_not_make_a_host_count_as_down() -> None:
    links = [f"/p{n}" for n in range(MAX_FAILURES + 3)]
    asked, _ = walk({"/": page(*links), **{link: {"error": "too-large"} for link in links}})
    assert asked[-len(links) :] == links


def test_urls_beyond_the_cap_are_counted_and_not_asked_for() -> None:
    asked, items = walk({"/": page("/a", "/b", "/c", "/d")}, max_urls=3)
    assert asked[-3:] == ["/", "/a", "/b"]
    assert caps(items) == {"over-max-urls": 2}


def test_links_to_other_hosts_have_the_same_cap() -> None:
    _, items = walk({"/": page(*(f"http://{n}.test/" for n in range(5)))}, max_urls=3, scope=ScopeName.any)
    assert [item.links for item in items if isinstance(item, Found)] == [[f"http://{n}.test/" for n in range(3)]]


def test_a_url_that_a_redirect_led_to_is_not_counted_as_left_out() -> None:
    answers = {"/": page("/a", "/b", "/c"), "/a": {"status": 302, "location": "/b"}, "/b": page()}
    asked, items = walk(answers, max_pages=2)
    assert asked[-3:] == ["/", "/a", "/b"]
    assert caps(items) == {"over-max-pages": 1}


def test_a_url_that_the_patterns_deny_is_counted_once() -> None:
    _, items = walk({"/": page("/x", "/a"), "/a": page("/x", "/y")}, deny=["/[xy]$"])
    assert caps(items) == {"url-denied": 2}


def sitemap(*urls: str) -> Answer:
    body = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
    return {"status": 200, "content_type": "text/xml", "body": f"<urlset>{body}</urlset>".encode()}


def rules(*lines: str) -> Answer:
    return {"status": 200, "content_type": "text/plain", "body": "\n".join(["User-agent: *", *lines]).encode()}


def test_robots_of_another_host_are_not_asked_for() -> None:
    asked, items = walk({"/robots.txt": {"status": 301, "location": "http://other.test/robots.txt"}})
    assert asked == ["/robots.txt"]
    assert [item.reason for item in items if isinstance(item, Reject)] == ["robots-unavailable"]


def test_sitemaps_are_read_until_there_are_urls_enough() -> None:
    named = rules(*(f"Sitemap: {ORIGIN}/s{n}.xml" for n in range(3)))
    answers = {"/robots.txt": named, **{f"/s{n}.xml": sitemap(f"{ORIGIN}/p{n}") for n in range(3)}}
    asked, _ = walk(answers, max_pages=2)
    assert asked == ["/robots.txt", "/s0.xml", "/s1.xml", "/", "/p0", "/p1"]


def test_no_more_sitemaps_than_the_cap_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_SITEMAPS", 2)
    named = rules(*(f"Sitemap: {ORIGIN}/s{n}.xml" for n in range(3)))
    asked, items = walk({"/robots.txt": named, **{f"/s{n}.xml": sitemap() for n in range(3)}})
    assert asked == ["/robots.txt", "/s0.xml", "/s1.xml", "/"]
    left = [item for item in items if isinstance(item, Reject) and item.reason == "over-max-sitemaps"]
    assert [(item.id, item.detail) for item in left] == [(f"{ORIGIN}/s2.xml", "2 sitemaps not read")]


def test_a_sitemap_index_that_names_itself_is_read_once() -> None:
    body = f"<sitemapindex><sitemap><loc>{ORIGIN}/sitemap.xml</loc></sitemap></sitemapindex>".encode()
    asked, _ = walk({"/sitemap.xml": {"status": 200, "content_type": "text/xml", "body": body}})
    assert asked == ["/robots.txt", "/sitemap.xml", "/"]


@pytest.mark.parametrize(("lines", "reasons"), [((), []), ((f"Sitemap: {ORIGIN}/sitemap.xml",), ["bad-sitemap"])])
def test_an_absent_sitemap_is_an_error_only_where_it_was_promised(lines: tuple[str, ...], reasons: list[str]) -> None:
    _, items = walk({"/robots.txt": rules(*lines), "/": page()})
    assert [item.reason for item in items if isinstance(item, Reject)] == reasons


def test_a_sitemap_offers_pages_of_its_own_host_that_robots_allow_it_to() -> None:
    answers = {
        "/robots.txt": rules("Disallow: /no", f"Sitemap: {ORIGIN}/no.xml"),
        "/no.xml": sitemap(f"{ORIGIN}/b"),
        "/sitemap.xml": sitemap(f"{ORIGIN}/a", "http://other.test/x"),
    }
    asked, _ = walk(answers)
    assert asked == ["/robots.txt", "/sitemap.xml", "/", "/a"]


def test_a_sitemap_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_SITEMAP_BYTES", 1000)
    packed = Reply(url="", status=200, body=gzip.compress(sitemap("x" * 1000)["body"]))
    assert sitemaps.read_sitemap(packed) == ([], [], "over 1000 bytes when decompressed")


@pytest.mark.parametrize(
    ("delay_s", "blocked"), [(robots.MAX_CRAWL_DELAY_S, ""), (robots.MAX_CRAWL_DELAY_S + 1, "crawl-delay")]
)
def test_the_longest_crawl_delay_is_still_kept(delay_s: float, blocked: str) -> None:
    found = robots.parse_robots(f"User-agent: *\nCrawl-delay: {delay_s}".encode(), "u", "rag-hpc")
    assert (found.blocked, found.delay_s) == (blocked, 0.0 if blocked else delay_s)


@pytest.mark.parametrize("line_end", [b"\n", b"\r"])
def test_a_robots_txt_of_too_many_lines_forbids_everything(line_end: bytes) -> None:
    lines = [b"User-agent: *", *[b"Allow: /"] * robots.MAX_ROBOTS_LINES, b""]
    assert robots.parse_robots(line_end.join(lines), "u", "rag-hpc").blocked == "robots-unavailable"


def measured(body: str) -> tuple[list[Any], float, float]:
    """Return (what is said of a packed sitemap, CPU seconds, MiB that the process grew by), in a child."""
    code = (
        "import gzip, json, resource, time\nfrom rag_hpc.sources.crawl.journal import Reply\n"
        "from rag_hpc.sources.crawl import sitemaps\n"
        f"packed = gzip.compress({body})\nsitemaps.read_sitemap(Reply(url='', status=200, body=b'<a/>'))\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, begun = peak(), time.process_time()\n"
        "pages, inner, problem = sitemaps.read_sitemap(Reply(url='', status=200, body=packed))\n"
        "print(json.dumps([[len(pages), len(inner), problem], time.process_time() - begun, peak() - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, cpu_s, grown_mib = json.loads(done.stdout)
    return found, cpu_s, grown_mib


@pytest.mark.parametrize(
    ("body", "num_urls", "problem"),
    [
        ("b'<url>' * 4_800_000", (0, 0), "elements more than 8 deep"),
        ("b'<urlset>' + b'<a/>' * 1_500_000", (0, 0), "more than 1000000 elements"),
        (
            "b'<urlset><url a0=\"\"' + b''.join(b' a%d=\"\"' % n for n in range(400_000))",
            (0, 0),
            "a tag of more than",
        ),
        ("b'<urlset><url><loc>' + b'x' * 24_000_000 + b'</loc></url></urlset>'", (1, 0), ""),
        ("b'<urlset><!--' + b'x' * 24_000_000", (0, 0), "a tag of more than"),
        ("b'<sitemapindex>' + b'<sitemap><loc>/a</loc></sitemap>' * 100_000", (0, 50_000), "no element found"),
    ],
)
def test_a_sitemap_of_little_packed_bytes_costs_little_time_and_memory(
    body: str, num_urls: tuple[int, int], problem: str
) -> None:
    found, cpu_s, grown_mib = measured(body)
    assert (*found[:2],) == num_urls and found[2].startswith(problem)
    assert cpu_s < 3 and grown_mib < 150


def test_sitemaps_that_wait_are_capped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemaps, "MAX_KNOWN_SITEMAPS", 5)
    monkeypatch.setattr(sitemaps, "MAX_SITEMAPS", 3)
    index = "".join(f"<sitemap><loc>{ORIGIN}/s{n}.xml</loc></sitemap>" for n in range(20))
    first = {"status": 200, "content_type": "text/xml", "body": f"<sitemapindex>{index}</sitemapindex>".encode()}
    asked, items = walk({"/sitemap.xml": first, **{f"/s{n}.xml": sitemap() for n in range(20)}})
    assert asked == ["/robots.txt", "/sitemap.xml", "/s0.xml", "/s1.xml", "/"]
    left = [item for item in items if isinstance(item, Reject) and item.reason == "over-max-sitemaps"]
    assert [(item.id, item.detail) for item in left] == [(f"{ORIGIN}/s2.xml", "18 sitemaps not read")]


def test_urls_of_a_host_may_be_long_or_many_but_not_both() -> None:
    links = [f"/{n}/{'x' * 1500}" for n in range(10)]
    asked, items = walk({"/": page(*links)}, max_urls=20)
    assert len(asked) == 3 + 4 and caps(items) == {"over-max-urls": 6}  # 20 times 250 characters are known


@pytest.mark.parametrize(
    "lines",
    [
        [*(f"User-agent: a{n}" for n in range(2000)), *(f"Disallow: /{n}" for n in range(2000))],
        [*(f"USERAGENT a{n}" for n in range(2000)), *(f"Disalow /{n}" for n in range(2000))],
        [*(f"User-agent: a{n}" for n in range(24_000))] * 2,
    ],
)
def test_robots_whose_rules_are_multiplied_by_their_agents_forbid_everything(lines: list[str]) -> None:
    begun = time.process_time()
    assert robots.parse_robots("\n".join(lines).encode(), "u", "rag-hpc").blocked == "robots-unavailable"
    assert time.process_time() - begun < 1


def test_robots_of_many_agents_with_rules_of_their_own_are_read() -> None:
    lines = [line for n in range(9000) for line in (f"User-agent: a{n}", "Disallow: /", "")]
    found = robots.parse_robots("\n".join([*lines, "User-agent: *", "Disallow: /x"]).encode(), "u", "rag-hpc")
    assert not found.blocked and found.allows("http://h/") and not found.allows("http://h/x")


def test_lines_of_robots_that_no_newline_ends_count_too() -> None:
    body = "\u2028".join(["User-agent: *", *["Allow: /"] * robots.MAX_ROBOTS_LINES]).encode()
    assert robots.parse_robots(body, "u", "rag-hpc").blocked == "robots-unavailable"


@pytest.mark.parametrize("scope", [ScopeName.any, ScopeName.domain])
def test_links_reach_the_ports_of_the_web_and_of_the_seeds_only(scope: ScopeName) -> None:
    ports = ("", ":80", ":443", ":22", ":25", ":8080", ":6379", ":65535")
    links = [f"{scheme}://www.h.test{port}/" for scheme in ("http", "https") for port in ports]
    _, items = walk({"/": page(*links)}, scope=scope, seeds=["http://h.test/", "http://h.test:8080/"])
    (found,) = [item.links for item in items if isinstance(item, Found)]
    assert found == [
        "http://www.h.test/",
        "http://www.h.test:443/",
        "http://www.h.test:8080/",
        "https://www.h.test/",
        "https://www.h.test:80/",
        "https://www.h.test:8080/",
    ]


def test_a_later_round_follows_no_redirect_to_another_service() -> None:
    scope = Scope(corpus(scope=ScopeName.any, seeds=["http://h.test/"]))
    assert scope.admits("http://other.test/") and scope.admits("https://other.test:80/")
    assert not scope.admits("http://other.test:22/") and not scope.admits("http://h.test:25/")
