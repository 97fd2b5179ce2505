"""Crawling one host, against servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from pathlib import Path

import pytest
from crawlsite import Handler, Reply, Route, context, corpus, crawl, html, paths, redirect, serving

from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.sources.crawl.crawler import crawl_hosts
from rag_hpc.sources.crawl.frontier import HostPlan
from rag_hpc.sources.crawl.links import extract_links
from rag_hpc.sources.crawl.robots import MAX_CRAWL_DELAY_S, MAX_REDIRECTS
from rag_hpc.sources.crawl.site import SiteSource


def test_pages_come_breadth_first_in_order_of_discovery() -> None:
    routes: dict[str, Route] = {
        "/": html("/b", "/a#top", "a", "http://other.example/x", "mailto:me@x.org"),
        "/b": html("/d", "/"),
        "/a": html("/c"),
        "/c": html(),
        "/d": html("missing"),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site)
        assert paths(pages) == ["/", "/b", "/a", "/d", "/c"]
        assert [page.meta["depth"] for page in pages] == [0, 1, 1, 2, 2]
        assert rejects == {"/missing": "http-404"}
        assert len(site.asked) == len(set(site.asked))
        assert paths(crawl(site)[0]) == paths(pages)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_robots_that_cannot_be_had_forbid_everything(status: int) -> None:
    with serving({"/robots.txt": (status, {}, b""), "/": html(), "/a": html()}) as site:
        pages, rejects = crawl(site, "/", "/a")
        assert pages == []
        assert rejects == {"/": "robots-unavailable", "/a": "robots-unavailable"}
        assert set(site.asked) == {"/robots.txt"}


def test_a_host_that_is_not_there_rejects_its_seeds() -> None:
    with serving({}) as site:
        pass
    assert crawl(site, "/", "/a") == ([], {"/": "robots-unavailable", "/a": "robots-unavailable"})


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_absent_robots_allow_everything(status: int) -> None:
    with serving({"/robots.txt": (status, {}, b"User-agent: *\nDisallow: /"), "/": html()}) as site:
        assert paths(crawl(site)[0]) == ["/"]


def test_robots_rules_of_our_own_group_are_kept_on_every_hop() -> None:
    rules = b"\xef\xbb\xbfUser-agent: rag-hpc\nDisallow: /private\nAllow: /private/open\n\nUser-agent: *\nDisallow: /\n"
    routes: dict[str, Route] = {
        "/robots.txt": (200, {"Content-Type": "text/plain"}, rules),
        "/": html("/private/x", "/private/open", "/jump"),
        "/private/open": html(),
        "/private/x": html(),
        "/jump": redirect("/private/y"),
        "/private/y": html(),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site)
        assert paths(pages) == ["/", "/private/open"]
        assert rejects == {"/private/x": "robots-denied", "/jump": "robots-denied"}
        assert not {"/private/x", "/private/y"} & set(site.asked)


def test_robots_that_lead_to_another_host_forbid_everything() -> None:
    with serving({"/robots.txt": redirect("http://elsewhere.example/robots.txt"), "/": html()}) as site:
        assert crawl(site) == ([], {"/": "robots-unavailable"})
    with serving(
        {"/robots.txt": redirect("/r2"), "/r2": (200, {}, b"User-agent: *\nDisallow: /x"), "/x": html()}
    ) as site:
        assert crawl(site, "/x") == ([], {"/x": "robots-denied"})


def test_crawl_delay_is_slept_between_request_starts() -> None:
    sleeps, begun = list[float](), time.monotonic()
    robots: Reply = (200, {}, b"User-agent: *\nCrawl-delay: 7")
    with serving({"/robots.txt": robots, "/": html("/a"), "/a": html()}) as site:
        pages, _ = crawl(site, sleeps=sleeps, delay_s=2.0)
        assert len(pages) == 2
        assert site.asked == ["/robots.txt", "/sitemap.xml", "/", "/a"]
    assert 3 * 7 - (time.monotonic() - begun) <= sum(sleeps) <= 3 * 7.01  # what passed by itself is not slept


def test_delay_of_the_corpus_wins_over_a_shorter_crawl_delay() -> None:
    sleeps, begun = list[float](), time.monotonic()
    with serving({"/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 1"), "/": html()}) as site:
        crawl(site, sleeps=sleeps, delay_s=3.0)
    assert 2 * 3 - (time.monotonic() - begun) <= sum(sleeps) <= 2 * 3.01


def test_an_absurd_crawl_delay_forbids_the_host() -> None:
    delay = str(MAX_CRAWL_DELAY_S + 1).encode()
    with serving({"/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: " + delay), "/": html()}) as site:
        assert crawl(site) == ([], {"/": "crawl-delay"})


def test_sitemaps_are_read_through_an_index_and_gzip() -> None:
    def listing(tag: str, *urls: str) -> bytes:
        entries = "".join(f"<{tag}><loc> {url} </loc></{tag}>" for url in urls)
        return f'<r xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</r>'.encode()

    with serving({"/": html("/late"), "/late": html(), "/one": html(), "/two": html()}) as site:
        base = f"http://{site.host}"
        site.routes["/robots.txt"] = (200, {}, f"Sitemap: {base}/index.xml\nSitemap: {base}/gone.xml".encode())
        site.routes["/index.xml"] = (200, {}, listing("sitemap", f"{base}/s.xml.gz", f"{base}/index.xml"))
        site.routes["/s.xml.gz"] = (
            200,
            {},
            gzip.compress(listing("url", f"{base}/one", "http://else.example/", "/two")),
        )
        pages, rejects = crawl(site)
        assert paths(pages) == ["/", "/one", "/two", "/late"]
        assert rejects == {"/gone.xml": "bad-sitemap", "/s.xml.gz": "sitemap-offsite"}
        assert "/sitemap.xml" in site.asked


def test_a_sitemap_with_entities_is_refused() -> None:
    bomb = b'<!DOCTYPE r [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><r><url><loc>/one&b;</loc></url></r>'
    with serving(
        {"/sitemap.xml": (200, {}, bomb), "/": html(), "/robots.txt": (200, {}, b"Sitemap: /sitemap.xml")}
    ) as site:
        pages, rejects = crawl(site)
        assert paths(pages) == ["/"]
        assert rejects == {"/sitemap.xml": "bad-sitemap"}


def test_redirects_inside_the_host_give_one_page_under_its_final_url() -> None:
    routes: dict[str, Route] = {"/": html("/old", "/new", "/older"), "/old": redirect("new"), "/new": html("rel")}
    with serving(routes | {"/older": redirect("/old"), "/rel": html()}) as site:
        pages, rejects = crawl(site)
        assert paths(pages) == ["/", "/new", "/rel"]
        assert pages[1].meta["requested"].endswith("/old")
        assert rejects == {"/older": "redirect-duplicate"}


def test_redirect_loops_chains_and_leaving_the_host_are_rejected() -> None:
    routes: dict[str, Route] = {
        "/": html("/self", "/ping", "/chain0", "/off", "/port", "/nowhere", "/ftp"),
        "/self": redirect("/self"),
        "/ping": redirect("/pong"),
        "/pong": redirect("/ping"),
        "/off": redirect("http://169.254.169.254/latest/meta-data"),
        "/port": redirect("http://127.0.0.1:1/"),
        "/nowhere": (302, {}, b""),
        "/ftp": redirect("ftp://127.0.0.1/"),
    }
    routes.update({f"/chain{n}": redirect(f"/chain{n + 1}") for n in range(MAX_REDIRECTS + 2)})
    with serving(routes) as site:
        pages, rejects = crawl(site)
        assert paths(pages) == ["/"]
        assert rejects == {
            "/self": "redirect-loop",
            "/ping": "redirect-loop",
            "/chain0": "redirect-limit",
            "/off": "redirect-offsite",
            "/port": "redirect-offsite",
            "/nowhere": "redirect-bad",
            "/ftp": "redirect-bad",
        }
        assert sum(path.startswith("/chain") for path in site.asked) == MAX_REDIRECTS + 1


def test_content_types_other_than_text_are_rejected_unread() -> None:
    routes: dict[str, Route] = {
        "/pdf": (200, {"Content-Type": "application/pdf"}, b"%PDF" * 100_000),
        "/none": (200, {}, b"\x89PNG"),
        "/txt": (200, {"Content-Type": "Text/Plain"}, b"see <a href='/x'>"),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site, *routes)
    assert [(page.content_type, page.charset) for page in pages] == [("text/plain", "utf-8")]
    assert rejects == {"/pdf": "content-type", "/none": "content-type"}


def test_charset_comes_from_header_then_meta_then_utf8() -> None:
    meta = b'<meta http-equiv="content-type" content="text/html; charset=koi8-r">'
    routes: dict[str, Route] = {
        "/header": (200, {"Content-Type": "text/html; charset=ISO-8859-1"}, meta),
        "/meta": (200, {"Content-Type": "text/html"}, meta),
        "/odd": (200, {"Content-Type": "text/html; charset=klingon"}, meta),
        "/idna": (200, {"Content-Type": "text/html; charset=idna"}, b"\xff<a href=x>"),
        "/nothing": (200, {"Content-Type": "text/html"}, b"<p>"),
    }
    with serving(routes) as site:
        pages, _ = crawl(site, *routes)
    assert [page.charset for page in pages[:5]] == ["cp1252", "koi8-r", "koi8-r", "utf-8", "utf-8"]


def test_links_in_utf16_and_under_a_base_are_found() -> None:
    body = '<base href="/docs/"><a href="Ä b?q=ü#x">1</a><a HREF=\'../c\'>2</a><!-- <a href="no"> -->'
    found = extract_links(body.encode("utf-16-le"), "utf-16-le", "http://h/x/y")
    links, canonical = found.targets, found.canonical
    assert links == ["http://h/docs/%C3%84%20b?q=%C3%BC", "http://h/c"] and canonical is None


def test_caps_on_pages_and_depth_are_exact_and_accounted_for() -> None:
    routes: dict[str, Route] = {"/": html("/gone", "/1", "/2", "/3"), "/1": html("/deep"), "/2": html(), "/3": html()}
    with serving({**routes, "/deep": html()}) as site:
        pages, rejects = crawl(site, max_pages=3)
        assert paths(pages) == ["/", "/1", "/2"]
        assert rejects == {"/gone": "http-404", site.host: "over-max-pages"}
        pages, rejects = crawl(site, max_depth=1)
        assert paths(pages) == ["/", "/1", "/2", "/3"]
        assert rejects == {"/gone": "http-404", site.host: "over-max-depth"}


def test_a_stop_ends_the_crawl_between_two_pages() -> None:
    stop = threading.Event()

    def last(handler: Handler) -> None:
        stop.set()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")

    async def sleep(wait_s: float) -> None:
        if stop.is_set():
            await asyncio.sleep(wait_s)

    with serving({"/": html("/a", "/b"), "/a": last, "/b": html()}) as site:
        plan = HostPlan(host=site.host, seeds=[(f"http://{site.host}/", 0)])
        with pytest.raises(Interrupted):
            list(crawl_hosts([plan], corpus(delay_s=1000.0), context(should_stop=stop.is_set), sleep=sleep))
        assert "/a" in site.asked and "/b" not in site.asked


def test_split_gives_each_host_one_part_and_spreads_the_cap() -> None:
    seeds = ["http://B.localhost/x", "http://a.localhost:80/", "http://b.localhost/x#y", "https://b.localhost/y"]
    parts = SiteSource().split(corpus(seeds=seeds, max_pages=5, hosts_per_unit=1), Path())
    assert parts == [
        {"hosts": [{"host": "a.localhost", "seeds": [["http://a.localhost/", 0]], "max_pages": 3}]},
        {
            "hosts": [
                {
                    "host": "b.localhost",
                    "seeds": [["http://b.localhost/x", 0], ["https://b.localhost/y", 0]],
                    "max_pages": 2,
                }
            ]
        },
    ]
    (part,) = SiteSource().split(corpus(seeds=seeds[::-1]), Path())
    assert [(host["host"], host["max_pages"]) for host in part["hosts"]] == [("a.localhost", 0), ("b.localhost", 0)]
    (part,) = SiteSource().split(corpus(seeds=seeds, max_pages=1), Path())
    assert [host["host"] for host in part["hosts"]] == ["a.localhost"]
    (part,) = SiteSource().split(corpus(seeds=seeds, max_pages=9, max_pages_per_host=4), Path())
    assert [host["max_pages"] for host in part["hosts"]] == [4, 4]


def test_split_takes_the_ports_of_a_name_for_one_host() -> None:
    seeds = ["http://b.localhost/", "http://a.localhost:81/", "http://a.localhost/", "http://a-b.localhost/"]
    parts = SiteSource().split(corpus(seeds=seeds, hosts_per_unit=1, max_pages_per_host=5), Path())
    assert [[(host["host"], host["max_pages"]) for host in part["hosts"]] for part in parts] == [
        [("a-b.localhost", 5)],
        [("a.localhost", 3), ("a.localhost:81", 2)],
        [("b.localhost", 5)],
    ]
    (part,) = SiteSource().split(corpus(seeds=seeds[1:3], hosts_per_unit=1, max_pages_per_host=1), Path())
    assert [host["host"] for host in part["hosts"]] == ["a.localhost"]


@pytest.mark.parametrize(
    ("seeds", "user_agent", "match"),
    [
        ([], "x", "corpus.seeds is empty"),
        (["ftp://a.org/"], "x", "no http"),
        (["https://a.org/"], "rag-hpc/0.1", "names no contact"),
        (["http://127.0.0.1/"], "x\r\nEvil: 1", "printable ASCII"),
    ],
)
def test_split_refuses_what_would_fail_or_be_rude(seeds: list[str], user_agent: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SiteSource().split(corpus(seeds=seeds, user_agent=user_agent), Path())


def test_a_contact_in_the_user_agent_is_enough() -> None:
    config = corpus(seeds=["https://a.org/"], user_agent="rag-hpc/0.1 (me@b.org)")
    assert len(SiteSource().split(config, Path())) == 1
