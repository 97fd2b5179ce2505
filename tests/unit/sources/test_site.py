"""Crawling one host, against servers on loopback."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.sources.base import CorpusConfig, Page, ReadContext, Reject, SourceName
from rag_hpc.sources.fetch import MAX_TRIES, FetchError, HostClient, HostLimits, Pacer
from rag_hpc.sources.robots import MAX_CRAWL_DELAY_S, MAX_REDIRECTS
from rag_hpc.sources.site import MAX_FAILURES, SiteSource, crawl_host, extract_links

Reply = tuple[int, dict[str, str], bytes]
Route = Reply | Callable[["Handler"], None] | list[Reply]


def html(*links: str, text: str = "hello") -> Reply:
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    return 200, {"Content-Type": "text/html; charset=utf-8"}, f"<html><body>{text}{anchors}</body></html>".encode()


def redirect(target: str) -> Reply:
    return 302, {"Location": target}, b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.seen.append((self.client_address, dict(self.headers)))
        route = self.server.routes.get(self.path, (404, {}, b"no"))
        if isinstance(route, list):
            route = route.pop(0) if len(route) > 1 else route[0]
        if callable(route):
            route(self)
            return
        status, headers, body = route
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, routes: dict[str, Route]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes = routes
        self.asked: list[str] = []
        self.seen: list[tuple[Any, dict[str, str]]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is part of several tests


@contextmanager
def serving(routes: dict[str, Route]) -> Iterator[Site]:
    site = Site(routes)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()


def corpus(**changes: Any) -> CorpusConfig:
    values: dict[str, Any] = {"delay_s": 0.0, "timeout_s": 5.0, "allow_private": True, **changes}
    return CorpusConfig(source=SourceName.site, **values)


def context(sleeps: list[float] | None = None, should_stop: Callable[[], bool] = lambda: False) -> ReadContext:
    kept = [] if sleeps is None else sleeps
    return ReadContext(shared=Path(), should_stop=should_stop, sleep=kept.append)


def crawl(
    site: Site, *seeds: str, max_pages: int = 0, sleeps: list[float] | None = None, **changes: Any
) -> tuple[list[Page], dict[str, str]]:
    part = {
        "host": site.host,
        "seeds": [f"http://{site.host}{seed}" for seed in seeds or ["/"]],
        "max_pages": max_pages,
    }
    found = list(crawl_host(part, corpus(**changes), context(sleeps)))
    rejects = [(item.id.removeprefix(f"http://{site.host}"), item.reason) for item in found if isinstance(item, Reject)]
    assert len(rejects) == len(dict(rejects)), rejects
    return [item for item in found if isinstance(item, Page)], dict(rejects)


def paths(pages: list[Page]) -> list[str]:
    return ["/" + page.doc_id.split("/", 3)[3] for page in pages]


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


def test_one_connection_serves_the_whole_crawl_and_says_who_asks() -> None:
    with serving({"/": html("/a", "/b", "/no"), "/a": html(), "/b": html()}) as site:
        crawl(site, user_agent="rag-hpc/0.1 (me@x.org)")
        assert len({address for address, _ in site.seen}) == 1
        assert {headers["User-Agent"] for _, headers in site.seen} == {"rag-hpc/0.1 (me@x.org)"}
        assert {headers["Host"] for _, headers in site.seen} == {site.host}


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
    sleeps: list[float] = []
    robots: Reply = (200, {}, b"User-agent: *\nCrawl-delay: 7")
    with serving({"/robots.txt": robots, "/": html("/a"), "/a": html()}) as site:
        pages, _ = crawl(site, sleeps=sleeps, delay_s=2.0)
        assert len(pages) == 2
        assert site.asked == ["/robots.txt", "/sitemap.xml", "/", "/a"]
    assert max(sleeps) <= 1.0
    assert 3 * 7 - 1 < sum(sleeps) <= 3 * 7


def test_delay_of_the_corpus_wins_over_a_shorter_crawl_delay() -> None:
    sleeps: list[float] = []
    with serving({"/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 1"), "/": html()}) as site:
        crawl(site, sleeps=sleeps, delay_s=3.0)
    assert 2 * 3 - 1 < sum(sleeps) <= 2 * 3


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
        assert rejects == {"/gone.xml": "bad-sitemap"}
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


@pytest.mark.parametrize(
    ("retry_after", "low", "high"), [("3", 3, 3), (None, 1, 1), ("soon", 1, 1), ("a minute from now", 50, 60)]
)
def test_busy_replies_are_waited_for(retry_after: str | None, low: float, high: float) -> None:
    sleeps: list[float] = []
    if retry_after == "a minute from now":
        retry_after = formatdate(time.time() + 60)
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    with serving({"/": [(429, headers, b""), html()]}) as site:
        pages, rejects = crawl(site, sleeps=sleeps)
        assert (paths(pages), rejects) == (["/"], {})
    assert low <= sum(sleeps) <= high


def test_a_host_that_stays_busy_or_asks_for_an_hour_is_given_up() -> None:
    with serving({"/": (503, {"Retry-After": "1"}, b"")}) as site:
        assert crawl(site) == ([], {"/": "http-503"})
        assert site.asked.count("/") == MAX_TRIES
    sleeps: list[float] = []
    with serving({"/": (429, {"Retry-After": "3600"}, b"")}) as site:
        assert crawl(site, sleeps=sleeps) == ([], {"/": "http-429"})
        assert site.asked.count("/") == 1
    assert sleeps == []


def test_compressed_bodies_are_decoded() -> None:
    text = b"<p>" + b"word " * 1000
    bare = zlib.compressobj(wbits=-15)
    bodies = {
        "/gzip": gzip.compress(text),
        "/deflate": zlib.compress(text),
        "/bare": bare.compress(text) + bare.flush(),
    }
    codings = {"/gzip": "gzip", "/deflate": "deflate", "/bare": "deflate"}
    routes: dict[str, Route] = {
        path: (200, {"Content-Type": "text/html", "Content-Encoding": codings[path]}, body)
        for path, body in bodies.items()
    }
    with serving(routes) as site:
        pages, rejects = crawl(site, *routes)
        assert rejects == {}
        assert [page.body for page in pages] == [text] * 3


def test_bodies_over_the_cap_are_rejected_before_they_are_held() -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x" * 100_000)

    kind = {"Content-Type": "text/html"}
    bomb = gzip.compress(b"\0" * 30_000_000)
    routes: dict[str, Route] = {
        "/": html("/bomb", "/plain", "/endless", "/cut", "/cutgzip", "/br", "/fits"),
        "/bomb": (200, {**kind, "Content-Encoding": "gzip"}, bomb),
        "/plain": (200, kind, b"x" * 10_001),
        "/endless": endless,
        "/cut": (200, {**kind, "Content-Length": "500", "Connection": "close"}, b"x" * 100),
        "/cutgzip": (200, {**kind, "Content-Encoding": "gzip"}, gzip.compress(b"hello" * 50)[:-9]),
        "/br": (200, {**kind, "Content-Encoding": "br"}, b"??"),
        "/fits": (200, kind, b"x" * 10_000),
    }
    with serving(routes) as site:
        tracemalloc.start()
        pages, rejects = crawl(site, max_page_bytes=10_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5_000_000
    assert paths(pages) == ["/", "/fits"]
    assert rejects == {
        "/bomb": "too-large",
        "/plain": "too-large",
        "/endless": "too-large",
        "/cut": "truncated",
        "/cutgzip": "truncated",
        "/br": "content-encoding",
    }


def test_chunked_replies_keep_the_connection() -> None:
    def chunked(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n")

    with serving({"/": chunked, "/a": html()}) as site:
        pages, rejects = crawl(site, "/", "/a")
        assert rejects == {}
        assert pages[0].body == b"hello world"
        assert len({address for address, _ in site.seen}) == 1


def test_a_connection_closed_while_idle_is_opened_again() -> None:
    def hang_up(handler: Handler) -> None:
        handler.close_connection = True  # without saying so in a header
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"hi")

    with serving({"/": hang_up, "/a": hang_up, "/b": html()}) as site:
        sleeps: list[float] = []
        pages, rejects = crawl(site, "/", "/a", "/b", sleeps=sleeps)
        assert (paths(pages), rejects, sleeps) == (["/", "/a", "/b"], {}, [])


@pytest.mark.parametrize("slow_head", [True, False])
def test_a_page_that_trickles_in_ends_by_its_total_time(slow_head: bool) -> None:
    done = threading.Event()

    def trickle(handler: Handler) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9999\r\n"
        handler.wfile.write(head if slow_head else head + b"\r\n")
        for _ in range(1000):
            if done.wait(0.01):
                return
            handler.wfile.write(b"X" if slow_head else b"x")

    with serving({"/": trickle}) as site:
        start = time.monotonic()
        assert crawl(site, timeout_s=0.05) == ([], {"/": "timeout"})
        assert 0.1 <= time.monotonic() - start < 2.0
        done.set()


def test_a_host_that_goes_silent_is_not_asked_for_every_url() -> None:
    def silent(handler: Handler) -> None:
        handler.close_connection = True

    links = [f"/p{n}" for n in range(MAX_FAILURES + 3)]
    with serving({"/": html(*links), **dict.fromkeys(links, silent)}) as site:
        pages, rejects = crawl(site)
    assert len(pages) == 1
    assert list(rejects.values()) == ["connection"] * MAX_FAILURES + ["host-down"] * 3


def test_nonsense_instead_of_http_is_rejected() -> None:
    def nonsense(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    with serving({"/": nonsense, "/a": html()}) as site:
        pages, rejects = crawl(site, "/", "/a")
    assert (paths(pages), rejects) == (["/a"], {"/": "bad-response"})


def test_content_types_other_than_text_are_rejected_unread() -> None:
    routes: dict[str, Route] = {
        "/pdf": (200, {"Content-Type": "application/pdf"}, b"%PDF" * 100_000),
        "/none": (200, {}, b"<html>"),
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
    links = extract_links(body.encode("utf-16-le"), "utf-16-le", "http://h/x/y")
    assert links == ["http://h/docs/%C3%84%20b?q=%C3%BC", "http://h/c"]


def test_caps_on_pages_and_depth_are_exact_and_accounted_for() -> None:
    routes: dict[str, Route] = {"/": html("/gone", "/1", "/2", "/3"), "/1": html("/deep"), "/2": html(), "/3": html()}
    with serving({**routes, "/deep": html()}) as site:
        pages, rejects = crawl(site, max_pages=3)
        assert paths(pages) == ["/", "/1", "/2"]
        assert rejects == {"/gone": "http-404", site.host: "over-max-pages"}
        pages, rejects = crawl(site, max_depth=1)
        assert paths(pages) == ["/", "/1", "/2", "/3"]
        assert rejects == {"/gone": "http-404", site.host: "over-max-depth"}


def test_private_addresses_are_refused_unless_allowed() -> None:
    with serving({"/": html()}) as site:
        assert crawl(site, "/", "/a", allow_private=False) == ([], {"/": "address-refused", "/a": "address-refused"})
        assert site.asked == []


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    def lookup(*parts: Any, **options: Any) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    limits = HostLimits(user_agent="x", timeout_s=1.0, allow_private=False)
    client = HostClient("two.example", limits, Pacer(0.0, lambda wait: None, lambda: False), lookup=lookup)
    with pytest.raises(FetchError, match=r"10\.0\.0\.1") as caught:
        client.get("http://two.example/", 100, lambda mime: True)
    assert caught.value.reason == "address-refused"


def test_resolve_maps_a_virtual_host_to_a_server() -> None:
    with serving({"/": html("/a", "http://docs.test/b"), "/a": html(), "/b": html()}) as site:
        part = {"host": "docs.test", "seeds": ["http://docs.test/"], "max_pages": 0}
        where = {"docs.test": ("127.0.0.1", site.server_port)}
        found = list(crawl_host(part, corpus(), context(), resolve=where))
        assert [item.doc_id for item in found if isinstance(item, Page)] == [
            "http://docs.test/",
            "http://docs.test/a",
            "http://docs.test/b",
        ]
        assert {headers["Host"] for _, headers in site.seen} == {"docs.test"}
        refused = list(crawl_host(part, corpus(allow_private=False), context(), resolve=where))
        assert [item.reason for item in refused if isinstance(item, Reject)] == ["address-refused"]


def test_a_stop_ends_the_crawl_between_two_pages() -> None:
    with serving({"/": html("/a", "/b"), "/a": html(), "/b": html()}) as site:
        stop = threading.Event()
        part = {"host": site.host, "seeds": [f"http://{site.host}/"], "max_pages": 0}
        found = crawl_host(part, corpus(), context(should_stop=stop.is_set))
        assert isinstance(next(found), Page)
        stop.set()
        with pytest.raises(Interrupted):
            next(found)
        assert "/a" not in site.asked


def test_split_gives_each_host_one_part_and_spreads_the_cap() -> None:
    seeds = ["http://B.localhost/x", "http://a.localhost:80/", "http://b.localhost/x#y", "https://b.localhost/y"]
    parts = SiteSource().split(corpus(seeds=seeds, max_pages=5), Path())
    assert parts == [
        {"host": "a.localhost", "seeds": ["http://a.localhost/"], "max_pages": 3},
        {"host": "b.localhost", "seeds": ["http://b.localhost/x", "https://b.localhost/y"], "max_pages": 2},
    ]
    assert SiteSource().split(corpus(seeds=seeds[::-1]), Path())[0]["max_pages"] == 0
    assert [part["host"] for part in SiteSource().split(corpus(seeds=seeds, max_pages=1), Path())] == ["a.localhost"]


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
