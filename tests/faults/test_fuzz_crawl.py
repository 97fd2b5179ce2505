"""Whatever a server sends as robots.txt, sitemap, page or reply: no crash, no hang, no cap broken.

RAG_HPC_FUZZ_INPUTS=1000000 tries as many inputs; a few hundred are the default.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from rag_hpc.sources.crawl.connection import Broken, Connection
from rag_hpc.sources.crawl.journal import Ask, Reply
from rag_hpc.sources.crawl.links import MAX_LINKS, extract_links
from rag_hpc.sources.crawl.robots import parse_robots
from rag_hpc.sources.crawl.sitemaps import MAX_SITEMAP_BYTES, read_sitemap

INPUTS = int(os.environ.get("RAG_HPC_FUZZ_INPUTS", "400"))
SECONDS, BYTES = 2.0, 400 << 20  # of one input

ROBOTS = [
    b"User-agent: *\nDisallow: /\n",
    b"User-agent",
    b":",
    b" *",
    b"Allow: /a*b*c$",
    b"Crawl-delay: 1e9\n",
    b"Crawl-delay: nan",
    b"Sitemap: http://h/s.xml\n",
    b"Request-rate: 1/0\n",
    b"Visit-time: 0-9\n",
    b"\r",
    b"\n",
    b"#",
    b"%2",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"Disallow: /" + b"*a" * 400 + b"$\n",
    b"\0",
]
SITEMAP = [
    b"<urlset><url><loc>",
    b"http://h/a?b&amp;c",
    b"</loc></url>",
    b"<sitemapindex><sitemap><loc>",
    b"<![CDATA[",
    b"]]>",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>",
    b"&a;",
    b"</urlset>",
    b"<a xmlns='x'>",
    b"<?xml version='1.0'",
    b" encoding='utf-16'?>",
    b" encoding='gb2312'?>",
    b" encoding='rot13'?>",
    b"\x1f\x8b\x08\0",
    b"<!--",
    b"\xff",
    b"<loc>",
    b"ftp://",
    b"/",
    b"\n",
]
HTML = [
    b"<a href=",
    b"<a ",
    b"<a title='>' href=x>",
    b'"',
    b"'",
    b">",
    b"<",
    b"<base href=//h/",
    b"<!--",
    b"-->",
    b"=",
    b"<script>",
    b"</script",
    b"<link rel=canonical href=",
    b"&#x110000;",
    b"&amp;",
    b"http://[::1",
    b"//h:99999/",
    b"javascript:",
    b"%",
    b"\xff\xc3",
    b"\0",
    b"../" * 50,
    b" ",
    b"href",
    b"?",
    b"#",
    b"<title>",
    b"<textarea>",
]
HTTP = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 304 x\r\n",
    b"HTTP/1.1 100 x\r\n\r\n",
    b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\n",
    b"Content-Type: text/html\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: deflate\r\n",
    b"\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    gzip.compress(b"\0" * 3_000_000),
    zlib.compress(b"hello"),
    b"Location: http://h/\r\n",
    b"X: " + b"y" * 9000 + b"\r\n",
    b"\xff",
    b"HTTP/9",
    b"Retry-After: -1\r\n",
    b"\n",
]


def soup(dice: random.Random, words: list[bytes]) -> bytes:
    """Words of a format in any order, some of them many times, some with a byte changed."""
    data = b"".join(dice.choice(words) * (dice.choice((1, 1, 1, 2, 500))) for _ in range(dice.randrange(1, 30)))
    if data and dice.random() < 0.5:
        spot = dice.randrange(len(data))
        data = data[:spot] + bytes([dice.randrange(256)]) + data[spot + dice.randrange(3) :]
    return data


def robots(data: bytes) -> None:
    rules = parse_robots(data, "http://h/robots.txt", "rag-hpc")
    assert rules.blocked or 0 <= rules.delay_s <= 300
    rules.allows("http://h/" + "a" * 2000)


def sitemap(data: bytes) -> None:
    for body in (data, gzip.compress(data)):
        pages, inner, problem = read_sitemap(Reply(url="http://h/s", status=200, content_type="text/xml", body=body))
        assert all(isinstance(url, str) for url in (*pages, *inner, problem))


def page(data: bytes) -> None:
    for charset in ("utf-8", "utf-16-le", "cp1252"):
        links = extract_links(data, charset, "http://h/x/y").targets
        assert len(links) <= MAX_LINKS and all(link.startswith(("http://", "https://")) for link in links)


class Transport:
    """Where a connection writes."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


def reply(data: bytes) -> None:
    async def feed() -> Reply | None:
        connection = Connection(1.0, 200.0)
        connection.connection_made(Transport())
        future = connection.send(b"", Ask("page", "http://h/", 100_000))
        step = max(1, len(data) // 7)
        for start in range(0, len(data), step):
            connection.data_received(data[start : start + step])
        connection.connection_lost(None)
        try:
            return await asyncio.wait_for(future, 1)
        except Broken:
            return None

    found = asyncio.run(feed())
    assert found is None or (len(found.body) <= 100_000 and (found.status or found.error))


Reader = Callable[[bytes], None]


@pytest.mark.parametrize(("reader", "words"), [(robots, ROBOTS), (sitemap, SITEMAP), (page, HTML), (reply, HTTP)])
def test_soup_of_a_format_neither_breaks_nor_hangs_its_reader(reader: Reader, words: list[bytes]) -> None:
    for number in range(INPUTS // 4):
        data = soup(random.Random(number), words)
        begun = time.process_time()
        reader(data)
        assert time.process_time() - begun < SECONDS, number


@pytest.mark.parametrize(
    "charset", ["utf-99", "gb2312", "rot13", "idna", "punycode", "undefined", pytest.param("x" * 5000, id="long")]
)
def test_sitemap_in_a_charset_that_its_parser_cannot_read_is_a_problem_and_read_by_its_tags(charset: str) -> None:
    body = f"<?xml version='1.0' encoding='{charset}'?><urlset><url><loc>http://h/</loc></url></urlset>".encode()
    pages, _, problem = read_sitemap(Reply(url="http://h/s", status=200, content_type="text/xml", body=body))
    assert pages == ["http://h/"] and problem


BIG: dict[str, tuple[Any, bytes]] = {
    "robots of one rule a line": (robots, b"User-agent: *\n" + b"Disallow: /a*b$\n" * 200_000),
    "robots of stars": (robots, b"User-agent: *\nDisallow: /" + b"*a" * 1_000_000),
    "sitemap that nests": (sitemap, b"<url>" * 200_000),
    "sitemap bomb": (sitemap, gzip.compress(b"<" * (MAX_SITEMAP_BYTES + 1))),
    "open anchors": (page, b"<a " * 2_000_000),
    "open quotes": (page, b'<a href="' * 500_000),
    "href without end": (page, b"<a " + b"href " * 1_000_000),
    "href and spaces": (page, (b"<a href" + b" " * 1000) * 2000),
    "open comments": (page, b"<!--" * 1_000_000),
    "open scripts": (page, b"<script>" * 500_000),
    "many links": (page, b"".join(b"<a href=/%d>" % n for n in range(300_000))),
    "canonicals": (page, b"<link rel=canonical " * 200_000),
    "rel without end": (page, b"<link " + b"rel=" * 500_000 + b">"),
    "long dots": (page, b"<a href='" + b"../" * 500_000 + b"'>"),
}


@pytest.mark.parametrize("name", BIG)
def test_big_hostile_inputs_stay_within_time_and_memory(name: str) -> None:
    reader, data = BIG[name]
    begun = time.process_time()
    reader(data)
    assert time.process_time() - begun < 5 * SECONDS
    tracemalloc.start()
    try:
        reader(data[: len(data) // 20])
        assert tracemalloc.get_traced_memory()[1] < BYTES / 20 + (60 << 20)
    finally:
        tracemalloc.stop()
