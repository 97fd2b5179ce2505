"""Archives as other crawlers leave them: cut bodies, chunk sizes, revisits, logs, and headers that say little."""

from __future__ import annotations

import gzip
import sys
import zlib
from pathlib import Path

import pytest
import zstandard
from warcs import HTML, ids, read_bytes, record

from rag_hpc.algo.text.headers import is_markup, sent_type
from rag_hpc.sources.archives.message import Body, dechunked, parse_head
from rag_hpc.sources.files.coding import CodingError, Decoder, content_codings
from rag_hpc.stores.page import Page, Reject

TEXT = b"<!doctype html><p>" + b"".join(b"The keeper wrote line %d of the log. " % n for n in range(400))


def reply(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode()


def pages(items: list[Page | Reject]) -> dict[str, Page]:
    return {item.doc_id: item for item in items if isinstance(item, Page)}


def one(tmp_path: Path, block: bytes, extra: str = "") -> Page | Reject:
    (item,) = read_bytes(tmp_path, record("http://h/a", block, extra=extra))
    return item


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
def test_a_packed_body_that_ends_early_is_kept_and_marked(tmp_path: Path, coding: str) -> None:
    if coding == "br":
        packed = pytest.importorskip("brotli").compress(TEXT)
    else:
        packed = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}[coding](TEXT)
    head = reply("Content-Type: text/html", f"Content-Encoding: {coding}")
    whole = one(tmp_path, head + packed)
    assert isinstance(whole, Page)
    assert (whole.body, whole.meta) == (TEXT, {})
    cut = one(tmp_path, head + packed[:-6])
    assert cut.meta == {"truncated": "unspecified"} if isinstance(cut, Page) else cut.reason == "truncated"


def test_plain_and_chunked_bodies_that_end_early_are_marked_too(tmp_path: Path) -> None:
    plain = one(tmp_path, reply("Content-Type: text/html", "Content-Length: 9000") + b"<p>The first words of it")
    assert isinstance(plain, Page)
    assert (plain.body, plain.meta) == (b"<p>The first words of it", {"truncated": "unspecified"})
    head = reply("Content-Type: text/html", "Transfer-Encoding: chunked")
    for body in (b"8\r\n<p>Words\r\n", b"8\r\n<p>Words\r\n9\r\n of", b"f\r\n<p>Words"):
        cut = one(tmp_path, head + body)
        assert isinstance(cut, Page)
        assert cut.meta == {"truncated": "unspecified"}
    longer = one(tmp_path, reply("Content-Type: text/html", "Content-Length: 3") + b"<p>Stored unpacked")
    assert isinstance(longer, Page)
    assert longer.meta == {}


def test_chunk_sizes_are_undone_whatever_follows_them_and_whether_the_head_says_so(tmp_path: Path) -> None:
    signed = b'9;sig="' + b"a" * 500 + b'"\r\n<p>Words \r\n'
    head = reply("Content-Type: text/html", "Transfer-Encoding: Chunked")
    for body, text in (
        (signed + b"6 \r\nof it.\r\n0;x=y\r\nTrailer: z\r\n\r\n", b"<p>Words of it."),
        (b"4\n<p>W\n3\nord\n0\n\n", b"<p>Word"),
        (b"00000004\r\n<p>W\r\n0\r\n\r\n", b"<p>W"),
    ):
        for start in (head, reply("Content-Type: text/html")):
            page = one(tmp_path, start + body)
            assert isinstance(page, Page)
            assert (page.body, page.meta) == (text, {})
    packed = gzip.compress(TEXT)
    page = one(
        tmp_path,
        reply("Content-Type: text/html", "Transfer-Encoding: gzip, chunked")
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed),
    )
    assert isinstance(page, Page)
    assert page.body == TEXT
    assert dechunked(b"12\r\nis the dozen of the baker\r\n0\r\n\r\n", declared=False) == Body(data=None)


REVISIT = "WARC-Profile: http://netpreserve.org/warc/1.1/revisit/identical-payload-digest\r\n"


def test_revisits_are_pages_where_the_original_is_in_the_archive_and_else_rejects(tmp_path: Path) -> None:
    head = reply("Content-Type: text/html")
    elsewhere = REVISIT + "WARC-Refers-To-Target-URI: http://elsewhere/a\r\nWARC-Payload-Digest: sha1:AAAA\r\n"
    by_id = REVISIT + "WARC-Refers-To: <urn:x:http://h/a>\r\n"
    by_uri = REVISIT + "WARC-Refers-To-Target-URI: http://h/b\r\nWARC-Refers-To-Date: 2024-01-01T00:00:00Z\r\n"
    by_digest = REVISIT + "WARC-Payload-Digest: SHA1:BBBB\r\n"
    again = REVISIT + "WARC-Refers-To-Target-URI: http://h/a\r\n"
    lost = REVISIT + "WARC-Refers-To-Target-URI: http://h/404\r\n"
    content = b"".join(
        [
            record("http://h/r0", head, "revisit", elsewhere),
            record("http://h/r1", head, "revisit", by_id),
            record("http://h/a", HTML + b"<p>one"),
            record("http://h/b", HTML + b"<p>two", extra="WARC-Date: 2024-01-01T00:00:00Z\r\n"),
            record("http://h/c", HTML + b"<p>three", extra="WARC-Payload-Digest: sha1:bbbb\r\n"),
            record("http://h/r2", head, "revisit", by_uri),
            record("http://h/r3", head, "revisit", by_digest),
            record("http://h/a", head, "revisit", again),
            record("http://h/404", b"HTTP/1.1 404 Not Found\r\n\r\n"),
            record("http://h/r4", head, "revisit", lost),
        ]
    )
    items = read_bytes(tmp_path, content)
    assert ids(items) == [
        "http://h/a",
        "http://h/b",
        "http://h/c",
        "revisit:http://h/a",
        "http-404:http://h/404",
        "http://h/r1",
        "http://h/r2",
        "http://h/r3",
        "revisit:http://h/r0",
        "revisit:http://h/r4",
    ]
    found = pages(items)
    assert [found[f"http://h/r{n}"].body for n in (1, 2, 3)] == [b"<p>one", b"<p>two", b"<p>three"]
    assert found["http://h/r3"].meta == {"revisit_of": "http://h/c"}
    rejects = {item.id: item.detail for item in items if isinstance(item, Reject)}
    assert rejects["http://h/r0"] == "the same as http://elsewhere/a"


def test_segments_are_counted_and_the_first_is_marked(tmp_path: Path) -> None:
    first = record("http://h/long", HTML + b"<p>The first part", extra="WARC-Segment-Number: 1\r\n")
    more = "WARC-Segment-Number: 2\r\nWARC-Segment-Origin-ID: <urn:x:http://h/long>\r\n"
    items = read_bytes(tmp_path, first + record("http://h/long", b" and the second", "continuation", more))
    assert ids(items) == ["http://h/long", "segment:http://h/long"]
    assert pages(items)["http://h/long"].meta == {"truncated": "segment"}


def test_what_crawlers_file_of_themselves_is_no_document(tmp_path: Path) -> None:
    uris = ("metadata://gnu.org/software/wget/warc/wget.log", "urn:X-wpull:log", "dns:h.test", "filedesc://a.arc")
    content = b"".join(
        record(uri, b"--2024-- http://h/", "resource").replace(b"application/http", b"text/plain") for uri in uris
    )
    content += record("http://h/notes.txt", b"Notes.", "resource").replace(b"application/http", b"text/plain")
    assert ids(read_bytes(tmp_path, content)) == [*(f"crawl-log:{uri}" for uri in uris), "http://h/notes.txt"]


@pytest.mark.parametrize("coding", ["none", "UTF-8", "identity", "binary, 8bit", "", "text/html"])
def test_content_codings_that_are_none_are_passed_over(tmp_path: Path, coding: str) -> None:
    page = one(tmp_path, reply("Content-Type: text/html", f"Content-Encoding: {coding}") + TEXT)
    assert isinstance(page, Page)
    assert page.body == TEXT


def test_codings_one_over_another_are_undone_and_unread_ones_named() -> None:
    assert content_codings("none, X-GZIP ,br") == ["gzip", "br"]
    assert content_codings("gzip;q=1.0, utf-8") == ["gzip"]
    twice = gzip.compress(zlib.compress(TEXT))
    assert b"".join(Decoder(["deflate", "gzip"]).feed(twice, 1 << 20)) == TEXT
    for codings, message in ((["compress"], "compress: this content coding"), (["gzip"] * 4, "over 3 content codings")):
        with pytest.raises(CodingError, match=message):
            Decoder(codings)


def test_bombs_in_any_coding_stop_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(50_000_000)
    packed = {"gzip": gzip.compress(zeros), "zstd": zstandard.compress(zeros)}
    packed["br"] = pytest.importorskip("brotli").compress(zeros, quality=1)
    for coding, body in packed.items():
        pieces = Decoder([coding]).feed(body, 1_000_000)
        assert sum(map(len, pieces)) < 20_000_000
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(CodingError, match="brotli is not installed; pip install"):
        Decoder(["br"])


def test_a_type_that_is_repeated_folded_or_missing_still_says_what_it_can(tmp_path: Path) -> None:
    repeated = one(tmp_path, reply("Content-Type: text/html", "Content-Type: text/html; charset=koi8-r") + b"<p>x")
    folded = one(tmp_path, reply("Content-Type: text/html;", "\tcharset=koi8-r") + b"<p>x")
    for page in (repeated, folded):
        assert isinstance(page, Page)
        assert (page.content_type, page.charset) == ("text/html", "koi8-r")
    identified = "WARC-Identified-Payload-Type: text/html\r\n"
    for head in (reply(), reply("Content-Type: application/octet-stream"), reply("Content-Type: html")):
        page = one(tmp_path, head + b"Words without markup", extra=identified)
        assert isinstance(page, Page)
        assert page.content_type == "text/html"
    assert isinstance(one(tmp_path, reply() + b"\xef\xbb\xbf \n<!DOCTYPE html><p>x"), Page)
    assert isinstance(one(tmp_path, reply("Content-Encoding: gzip") + gzip.compress(TEXT)), Page)
    for body in (b"\x89PNG....", b"Words.", b"<svg>"):
        item = one(tmp_path, reply() + body)
        assert isinstance(item, Reject)
        assert (item.reason, item.detail) == ("content-type", "none stated")


def test_the_last_valid_type_of_a_list_counts() -> None:
    assert sent_type(["text/html, text/html; charset=utf-8"]) == "text/html; charset=utf-8"
    assert sent_type(["text/html; charset=koi8-r", "text/html", "*/*", "junk"]) == "text/html; charset=koi8-r"
    assert sent_type(["text/html; charset=koi8-r, text/plain"]) == "text/plain"
    assert sent_type(['text/plain; x="a, b"; charset="utf-8"']) == "text/plain; charset=utf-8"
    assert sent_type(["", "html"]) == ""
    assert sent_type(["'text/html'; charset=koi8-r"]) == "text/html; charset=koi8-r"
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX: 1\r\n 2\r\nContent-Type: c/d\r\n\r\n")[1] == {
        "content-type": "a/b, c/d",
        "x": "1 2",
    }


def test_markup_is_known_by_its_first_tag() -> None:
    assert is_markup(b"\n<HTML>") and is_markup(b"<!-- x --><html>") and is_markup(b"<?xml version='1.0'?>\n<html ")
    assert not is_markup(b"<htmlx>") and not is_markup(b"<?xml version='1.0'?><rss>") and not is_markup(b"words <p>")
