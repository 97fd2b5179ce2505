"""What one host's connection takes, waits for and refuses, against servers on loopback."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import threading
import time
import tracemalloc
import zlib
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from certificate import self_signed
from crawlsite import Handler, Route, Site, context, corpus, crawl, html, paths, serving

from rag_hpc.sources.crawl import connection as module
from rag_hpc.sources.crawl.client import MAX_TRIES, HostClient, Network, Pace
from rag_hpc.sources.crawl.connection import MAX_HEAD_BYTES, Broken, Connection
from rag_hpc.sources.crawl.crawler import crawl_hosts
from rag_hpc.sources.crawl.frontier import MAX_FAILURES, HostPlan
from rag_hpc.sources.crawl.journal import Ask
from rag_hpc.sources.crawl.site import crawl_host
from rag_hpc.sources.files.compress import MAX_MEMBERS, Inflate
from rag_hpc.stores.page import Page, Reject


def test_one_connection_serves_the_whole_crawl_and_says_who_asks() -> None:
    with serving({"/": html("/a", "/b", "/no"), "/a": html(), "/b": html()}) as site:
        crawl(site, user_agent="rag-hpc/0.1 (me@x.org)")
        assert len({address for address, _ in site.seen}) == 1
        assert {headers["User-Agent"] for _, headers in site.seen} == {"rag-hpc/0.1 (me@x.org)"}
        assert {headers["Host"] for _, headers in site.seen} == {site.host}


@pytest.mark.parametrize(
    ("retry_after", "low", "high"), [("3", 3, 3), (None, 1, 1), ("soon", 1, 1), ("a minute from now", 59, 60)]
)
def test_busy_replies_are_waited_for(retry_after: str | None, low: float, high: float) -> None:
    sleeps, begun = list[float](), time.monotonic()
    if retry_after == "a minute from now":
        retry_after = formatdate(time.time() + 60)
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    with serving({"/": [(429, headers, b""), html()]}) as site:
        pages, rejects = crawl(site, sleeps=sleeps)
        assert (paths(pages), rejects) == (["/"], {})
    assert low - (time.monotonic() - begun) <= sum(sleeps) <= high  # what passed by itself is not slept


def test_a_host_that_stays_busy_or_asks_for_an_hour_is_given_up() -> None:
    with serving({"/": (503, {"Retry-After": "1"}, b"")}) as site:
        assert crawl(site) == ([], {"/": "http-503"})
        assert site.asked.count("/") == MAX_TRIES
    sleeps: list[float] = []
    with serving({"/": (429, {"Retry-After": "3600"}, b"")}) as site:
        assert crawl(site, sleeps=sleeps) == ([], {"/": "http-429"})
        assert site.asked.count("/") == 1
        site.routes["/a"] = html()
        found = {"/": "http-429", "/a": "host-busy", "/b": "host-busy"}
        assert crawl(site, "/", "/a", "/b", sleeps=sleeps) == ([], found)
        assert "/a" not in site.asked
    assert sleeps == []


def test_a_wait_that_a_host_asked_for_holds_for_its_other_pages_too() -> None:
    with serving({"/": (503, {"Retry-After": "1"}, b""), "/a": html()}) as site:
        pages, rejects = crawl(site, "/", "/a", should_stop=lambda: False)
        assert (paths(pages), rejects) == (["/a"], {"/": "http-503"})
        times = [when for when, _, path in site.arrivals if path in ("/", "/a")]
        assert len(times) == MAX_TRIES + 1
        assert min(after - before for before, after in pairwise(times)) >= 0.95


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_gzip_members_follow_one_another_and_what_follows_the_last_is_passed_over(size: int) -> None:
    def unpacked(coding: str, data: bytes) -> tuple[bytes, bool]:
        inflate = Inflate(coding)
        found = b"".join(b"".join(inflate.feed(data[at : at + size], 1000)) for at in range(0, len(data), size))
        return found, inflate.is_open

    members = gzip.compress(b"first ") + gzip.compress(b"") + gzip.compress(b"second")
    assert unpacked("gzip", members) == (b"first second", False)
    assert unpacked("gzip", members + b"\0" * 100 + members) == (b"first second", False)
    assert unpacked("gzip", members[:-1]) == (b"first second", True)
    assert unpacked("gzip", members[:1]) == (b"", True)
    assert unpacked("deflate", zlib.compress(b"text") + b"more") == (b"text", False)
    assert b"".join(Inflate("gzip").feed(members, 8)) == b"first se"
    with pytest.raises(zlib.error, match="over 1000 members"):
        unpacked("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1))


def test_what_follows_compressed_data_counts_as_sent() -> None:
    piece = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"

    def endless(handler: Handler) -> None:
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n16\r\n" + gzip.compress(b"hi") + b"\r\n"
        )
        while True:
            handler.wfile.write(piece)

    with serving({"/": endless}) as site:
        assert crawl(site, max_page_bytes=1000) == ([], {"/": "too-large"})


def test_a_location_in_bytes_is_asked_for_as_it_was_sent() -> None:
    def moved(handler: Handler) -> None:
        handler.wfile.write("HTTP/1.1 301 Moved\r\nLocation: /café%20x\r\nContent-Length: 0\r\n\r\n".encode())

    with serving({"/": moved, "/caf%C3%A9%20x": html()}) as site:
        pages, rejects = crawl(site)
        assert (paths(pages), rejects) == (["/caf%C3%A9%20x"], {})


def test_a_connection_that_was_closed_before_the_request_is_no_late_reply() -> None:
    async def ask() -> bool:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(5.0, 200.0), *server.sockets[0].getsockname()
        )
        while connection.usable:
            await asyncio.sleep(0.01)
        with pytest.raises(Broken) as caught:
            await asyncio.wait_for(connection.send(b"", Ask("page", "http://a.test/", 100)), 1)
        server.close()
        return caught.value.stale

    assert asyncio.run(ask()) is False


def test_lookups_that_hang_do_not_time_out_those_of_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    real, over = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: str, *parts: Any, **options: Any) -> Any:
        if host.startswith("dead"):
            over.wait(60)
            raise socket.gaierror(-3, "no answer")
        return real("127.0.0.1", *parts, **options)

    async def no_wait(wait_s: float) -> None: ...

    async def ask(port: int) -> list[str]:
        network = Network(user_agent="x", timeout_s=1.5, allow_private=True)
        hosts = [f"dead{number}.test:{port}" for number in range(40)] + [f"live.test:{port}"]
        clients = [HostClient(host, network, Pace(0.0, no_wait)) for host in hosts]
        replies = await asyncio.gather(
            *(client.get(Ask("page", f"http://{client.host}/", 10_000)) for client in clients)
        )
        clients[-1].close()
        over.set()
        return [reply.error for reply in replies]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("rag_hpc.sources.crawl.client.MAX_TRIES", 1)
    with serving({"/": html()}) as site:
        assert asyncio.run(ask(site.server_port)) == ["dns"] * 40 + [""]


@pytest.mark.parametrize(
    ("errno", "failures", "tries", "outcome"),
    [
        (socket.EAI_AGAIN, MAX_TRIES - 1, MAX_TRIES, "page"),
        (socket.EAI_AGAIN, MAX_TRIES, MAX_TRIES, "dns"),
        (socket.EAI_NONAME, MAX_TRIES, 1, "dns"),
        (socket.EAI_FAIL, MAX_TRIES, 1, "dns"),
    ],
)
def test_a_name_service_that_fails_for_now_is_asked_again_as_a_broken_connection_is(
    monkeypatch: pytest.MonkeyPatch, errno: int, failures: int, tries: int, outcome: str
) -> None:
    asked, sleeps = list[str](), list[float]()

    def getaddrinfo(host: str, port: int, *parts: Any, **options: Any) -> Any:
        asked.append(host)
        if len(asked) <= failures:
            raise socket.gaierror(errno, "told so by the test")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def sleep(wait_s: float) -> None:
        sleeps.append(wait_s)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with serving({"/": html()}) as site:
        host = f"flaky.test:{site.server_port}"
        plan = HostPlan(host=host, seeds=[(f"http://{host}/", 0)])
        (found,) = crawl_hosts([plan], corpus(), context(), sleep=sleep)
    assert ("page" if isinstance(found, Page) else found.detail.split(": ")[1]) == outcome
    assert asked == ["flaky.test"] * tries
    assert [round(wait_s) for wait_s in sleeps[: tries - 1]] == [1, 2][: tries - 1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_pages_come_only_from_the_server_that_the_certificate_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_side, certificate = self_signed(tmp_path, "a.test")

    def fetched(site: Site, host: str) -> list[str]:
        plan = HostPlan(host=host, seeds=[(f"https://{host}/", 0)])
        found = list(crawl_hosts([plan], corpus(resolve={"*.test": site.host}), context()))
        return [item.doc_id if isinstance(item, Page) else item.reason + item.detail for item in found]

    with serving({"/": html("/a"), "/a": html()}) as site:
        site.socket = server_side.wrap_socket(site.socket, server_side=True)
        (refused,) = fetched(site, "a.test")
        assert "robots-unavailable" in refused and "tls" in refused
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(site, "a.test") == ["https://a.test/", "https://a.test/a"]
        assert len({address for address, _ in site.seen}) == 1
        assert "tls" in fetched(site, "b.test")[0]


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
        "/": html("/bomb", "/plain", "/endless", "/cut", "/cutgzip", "/lzw", "/fits"),
        "/bomb": (200, {**kind, "Content-Encoding": "gzip"}, bomb),
        "/plain": (200, kind, b"x" * 10_001),
        "/endless": endless,
        "/cut": (200, {**kind, "Content-Length": "500", "Connection": "close"}, b"x" * 100),
        "/cutgzip": (200, {**kind, "Content-Encoding": "gzip"}, gzip.compress(b"hello" * 50)[:-9]),
        "/lzw": (200, {**kind, "Content-Encoding": "compress"}, b"??"),
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
        "/lzw": "content-encoding",
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
def test_a_page_that_trickles_in_ends_by_its_total_time(slow_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def trickle(handler: Handler) -> None:
        monkeypatch.setattr(module, "TOTAL_FACTOR", 0.01)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9999\r\n"
        handler.wfile.write(head if slow_head else head + b"\r\n")
        while not done.wait(0.01):
            handler.wfile.write(b"X" if slow_head else b"x")

    with serving({"/": trickle}) as site:
        start = time.monotonic()
        assert crawl(site) == ([], {"/": "timeout"})
        assert time.monotonic() - start >= 0.2  # 0.01 times the 20 s in which a byte has to come
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


def test_private_addresses_are_refused_unless_allowed() -> None:
    with serving({"/": html()}) as site:
        assert crawl(site, "/", "/a", allow_private=False) == ([], {"/": "address-refused", "/a": "address-refused"})
        assert site.asked == []


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    async def lookup(*parts: Any, **options: Any) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    async def ask() -> Any:
        network = Network(user_agent="x", timeout_s=1.0, lookup=lookup)
        client = HostClient("two.example", network, Pace(0.0, asyncio.sleep))
        return await client.get(Ask("page", "http://two.example/", 100))

    found = asyncio.run(ask())
    assert found.error == "address-refused" and "10.0.0.1" in found.detail


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


def test_headers_without_end_and_too_many_of_them_are_refused() -> None:
    def endless(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(40):
            handler.wfile.write(b"x" * MAX_HEAD_BYTES)

    many: Route = (200, {"Content-Type": "text/html", **{f"X-{n}": "y" * 1000 for n in range(70)}}, b"")
    with serving({"/endless": endless, "/many": many, "/a": html()}) as site:
        pages, rejects = crawl(site, "/endless", "/many", "/a")
    assert (paths(pages), rejects) == (["/a"], {"/endless": "header-too-large", "/many": "header-too-large"})


def test_a_page_that_unpacks_to_hundreds_of_times_its_size_is_refused() -> None:
    kind = {"Content-Type": "text/html", "Content-Encoding": "gzip"}
    routes: dict[str, Route] = {
        "/bomb": (200, kind, gzip.compress(b"\0" * 3_000_000)),
        "/small": (200, kind, gzip.compress(b"\0" * 500_000)),
    }
    with serving(routes) as site:
        pages, rejects = crawl(site, *routes)
        assert (paths(pages), rejects) == (["/small"], {"/bomb": "over-ratio"})
        assert crawl(site, *routes, max_ratio=2000.0)[1] == {}


def test_interim_replies_are_passed_over_and_a_body_may_end_with_its_connection() -> None:
    def hints(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(
            b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>to the end"
        )

    with serving({"/": hints, "/a": html()}) as site:
        pages, rejects = crawl(site, "/", "/a")
    assert rejects == {} and pages[0].body == b"<p>to the end"
