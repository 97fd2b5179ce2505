"""Web archives as a source."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import realdata
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pdfs import make_pdf
from warcs import HTML, corpus, ids, read_all, read_bytes, record

from rag_hpc.errors import InputError
from rag_hpc.sources.archives.message import Body, dechunked, parse_head, stored_body
from rag_hpc.sources.archives.warc import WarcSource, is_archive
from rag_hpc.sources.files import compress
from rag_hpc.stores.page import Page, Reject

DATA = realdata.DATA / "warc"


def shared(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"no shared data at {DATA}; set RAG_HPC_DATA")
    return DATA / name


def test_responses_with_text_are_pages_and_the_rest_says_why_not(tmp_path: Path) -> None:
    content = b"".join(
        [
            record("", b"software: x\r\n", "warcinfo"),
            record("http://h/a", b"GET /a HTTP/1.1\r\n\r\n", "request"),
            record("http://h/a", HTML + b"<p>one"),
            record("http://h/a", HTML + b"<p>two"),
            record("<http://h/b>", b"HTTP/1.0 200 OK\nContent-Type: Text/Plain\n\nbare newlines"),
            record("http://h/404", b"HTTP/1.1 404 Not Found\r\n\r\n"),
            record("http://h/png", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89PNG"),
            record("http://h/odd", b"hello?"),
            record("dns:h", b"1.2.3.4"),
            record("", HTML),
            record("http://h/cut", HTML + b"<p>", extra="WARC-Truncated: length\r\n"),
            record("http://h/wet", "tèxt".encode(), "conversion"),
            record("http://h/a", HTML + b"<p>three"),
            record("http://h/meta", HTML.replace(b"; charset=utf-8", b"") + b"<meta charset=koi8-r>"),
        ]
    )
    items = read_bytes(tmp_path, content)
    assert ids(items) == [
        "http://h/a",
        "http://h/a#2",
        "http://h/b",
        "http-404:http://h/404",
        "content-type:http://h/png",
        "bad-http:http://h/odd",
        "not-http:dns:h",
        "no-uri:<urn:x:>",
        "http://h/cut",
        "http://h/wet",
        "http://h/a#3",
        "http://h/meta",
    ]
    pages = {item.doc_id: item for item in items if isinstance(item, Page)}
    assert [page.body for page in pages.values()][:3] == [b"<p>one", b"<p>two", b"bare newlines"]
    assert pages["http://h/a#3"].url == "http://h/a"
    assert pages["http://h/cut"].meta == {"truncated": "length"}
    assert (pages["http://h/wet"].content_type, pages["http://h/wet"].charset) == ("text/plain", "utf-8")
    assert (pages["http://h/b"].content_type, pages["http://h/meta"].charset) == ("text/plain", "koi8-r")


def test_stored_transfer_and_content_codings_are_undone(tmp_path: Path) -> None:
    packed = gzip.compress(b"<p>packed")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (
        b"%x\r\n" % 10 + packed[:10] + b"\r\n" + b"%X;a=b\r\n" % (len(packed) - 10) + packed[10:] + b"\r\n0\r\n\r\n"
    )
    unread = head.replace(b"gzip", b"compress").replace(b"chunked", b"identity")
    content = record("http://h/1", head + chunks) + record("http://h/2", head + b"<p>stored decoded")
    content += record("http://h/3", unread + b"\x1f\x9d") + record("http://h/4", head + packed[:5] + b"\xff" * 30)
    items = read_bytes(tmp_path, content)
    assert [item.body for item in items if isinstance(item, Page)] == [b"<p>packed", b"<p>stored decoded"]
    assert ids(items)[2:] == ["content-encoding:http://h/3", "content-encoding:http://h/4"]


def test_bodies_over_the_cap_are_rejected_also_when_they_only_unpack_to_it(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n"
    content = record("http://h/plain", HTML + b"x" * 10_001) + record("http://h/fits", HTML + b"x" * 10_000)
    content += record("http://h/bomb", head + gzip.compress(b"x" * 3_000_000)) + record("http://h/end", HTML)
    items = read_bytes(tmp_path, content, max_page_bytes=10_000)
    assert ids(items) == ["too-large:http://h/plain", "http://h/fits", "too-large:http://h/bomb", "http://h/end"]


def test_a_damaged_record_does_not_take_the_rest_with_it(tmp_path: Path) -> None:
    good = [record(f"http://h/{n}", HTML + b"<p>") for n in range(4)]
    broken = record("http://h/x", HTML + b"<p>" * 100, length=10)
    items = read_bytes(tmp_path, good[0] + good[1] + broken + good[2] + good[3])
    pages = [item.doc_id for item in items if isinstance(item, Page) and item.url != "http://h/x"]
    assert pages == ["http://h/0", "http://h/1", "http://h/2", "http://h/3"]
    assert [item.reason for item in items if isinstance(item, Reject) and item.reason == "malformed"] == ["malformed"]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_archives_cut_at_any_byte_keep_what_is_whole(tmp_path: Path, name: str) -> None:
    rng = random.Random(5)
    bodies = [HTML + rng.randbytes(40 + 30 * n).hex().encode() for n in range(6)]
    records = [record(f"http://h/{n}", body) for n, body in enumerate(bodies)]
    pack: Any = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    packed = [pack(one) for one in records]
    whole = b"".join(packed)
    ends = [sum(map(len, packed[: n + 1])) for n in range(len(packed))]
    for cut in [*rng.sample(range(1, len(whole)), 60), *(end - 5 for end in ends)]:
        items = read_bytes(tmp_path, whole[:cut], name)
        num_whole = sum(end <= cut for end in ends)
        assert ids(items)[:num_whole] == [f"http://h/{n}" for n in range(num_whole)]
        pages = sum(isinstance(item, Page) for item in items)
        assert num_whole <= pages <= num_whole + 1  # the last one may lack no more than the blank lines after it
        if cut not in ends and pages == num_whole:
            assert len(items) == num_whole + 1
            assert isinstance(items[-1], Reject) and items[-1].reason in ("truncated", "malformed", "bad-http")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_damage_of_any_kind_is_never_fatal(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(b"".join(record(f"http://h/{n}", HTML + b"<p>body") for n in range(5)))
    for _ in range(rng.randrange(1, 12)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    items = read_bytes(tmp_path_factory.mktemp("damage"), bytes(content))
    assert len(items) >= 1


def wat(uri: str, head: Any, kind: str = "Response") -> bytes:
    envelope = {"Payload-Metadata": {f"HTTP-{kind}-Metadata": {"HTML-Metadata": {"Head": head}, "Entity-Length": "9"}}}
    body = json.dumps({"Container": {"Offset": "1"}, "Envelope": envelope}).encode()
    return record(uri, body, "metadata").replace(b"application/http", b"application/json")


def test_wat_records_of_pages_give_title_and_description(tmp_path: Path) -> None:
    metas = [
        {"name": "Description", "content": " what\nit is "},
        {"name": "og:description", "content": "what it is"},
        {"property": "og:description", "content": "else"},
        {"name": "keywords", "content": "no"},
        "odd",
        {"name": 3, "content": 4},
    ]
    content = wat("http://h/a", {"Title": "A  title", "Metas": metas}) + wat("http://h/r", {"Title": "x"}, "Request")
    content += wat("http://h/b", {"Link": []}) + wat("http://h/c", ["odd"])
    content += wat("http://h/d", {"Title": 3, "Metas": 4})
    content += record("http://h/e", b"{", "metadata").replace(b"application/http", b"application/json")
    items = read_bytes(tmp_path, content, "a.warc.wat")
    assert ids(items) == ["http://h/a", "no-text:http://h/b", "no-text:http://h/d", "bad-json:http://h/e"]
    assert items[0] == Page(
        doc_id="http://h/a",
        url="http://h/a",
        body=b"A title\n\nwhat it is\n\nelse",
        content_type="text/plain",
        charset="utf-8",
        title="A title",
    )


def test_resources_and_pdf_replies_are_pages_too(tmp_path: Path) -> None:
    pdf = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n" + make_pdf("Hello PDF")
    content = record("file:///a.html", b"<p>a", "resource").replace(b"application/http", b"text/html; charset=koi8-r")
    content += record("file:///b.png", b"x", "resource").replace(b"application/http", b"image/png")
    content += record("http://h/p", pdf) + record("http://h/q", pdf[:90])
    items = read_bytes(tmp_path, content)
    assert ids(items) == ["file:///a.html", "content-type:file:///b.png", "http://h/p", "malformed:http://h/q"]
    assert [(item.body, item.content_type, item.charset) for item in items if isinstance(item, Page)] == [
        (b"<p>a", "text/html", "koi8-r"),
        (b"Hello PDF", "text/plain", "utf-8"),
    ]


def test_a_zstd_archive_may_bring_its_dictionary_or_be_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "FREE_BYTES", 1 << 24)
    records = [record(f"http://h/{n}", HTML + b"<p>some words of the body " * 40) for n in range(100)]
    dictionary = zstandard.train_dictionary(2048, records)
    packed = [zstandard.ZstdCompressor(dict_data=dictionary).compress(item) for item in records[:3]]
    body = struct.pack("<II", 0x184D2A5D, len(dictionary.as_bytes())) + dictionary.as_bytes() + b"".join(packed)
    assert ids(read_bytes(tmp_path, body, "d.warc.zst")) == [f"http://h/{n}" for n in range(3)]
    huge = record("http://h/huge", b"", length=40 << 20)[:-4] + b"\0" * (40 << 20)
    items = read_bytes(tmp_path, zstandard.compress(records[0]) + zstandard.compress(huge), "b.warc.zst")
    assert ids(items) == ["http://h/0", "bad-http:http://h/huge", "bomb:b.warc.zst#3"]


def test_every_real_archive_ends_in_pages_and_rejects(tmp_path: Path) -> None:
    names = sorted(path for path in shared("").rglob("*") if path.is_file() and is_archive(path.name))
    assert len(names) > 30
    for path in names:
        items = read_all(corpus(path))
        assert all(item.doc_id == item.doc_id.strip() != "" for item in items if isinstance(item, Page))
        is_arc = ".arc" in path.name
        assert ("unsupported-format" in {item.reason for item in items if isinstance(item, Reject)}) == is_arc


def test_arc_files_and_files_that_are_no_archive_are_told_apart(tmp_path: Path) -> None:
    arc = b"filedesc://x.arc 0.0.0.0 20080430204825 text/plain 76\n1 0 Test\nURL IP-address Archive-date Content-type\n"
    assert ids(read_bytes(tmp_path, arc, "x.arc")) == ["unsupported-format:x.arc"]
    assert ids(read_bytes(tmp_path, gzip.compress(arc), "x.arc.gz")) == ["unsupported-format:x.arc.gz"]
    assert [item.reason for item in read_bytes(tmp_path, b"<html>no archive</html>") if isinstance(item, Reject)] == [
        "malformed"
    ]


def test_caps_are_exact_over_several_archives(tmp_path: Path) -> None:
    for name, count in (("a.warc", 3), ("b.warc.gz", 4), ("c.wet", 2)):
        content = b"".join(record(f"http://{name}/{n}", HTML) for n in range(count))
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    whole = ids(read_all(corpus(tmp_path)))
    assert len(whole) == 9
    for cap in (1, 3, 4, 7, 8, 9, 50):
        assert ids(read_all(corpus(tmp_path, max_pages=cap))) == whole[:cap]
    assert len(WarcSource().split(corpus(tmp_path, max_pages=3), tmp_path)) == 1


def test_a_folder_without_archives_is_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_bytes(b"<p>")
    with pytest.raises(InputError, match=r"empty corpus, no \.warc"):
        WarcSource().split(corpus(tmp_path), tmp_path)


def test_heads_and_chunks_in_odd_shapes() -> None:
    assert parse_head(b"HTTP/2 200\r\nA: 1\r\na: 2\r\nno colon\r\n\r\nbody") == (200, {"a": "1"}, 36)
    assert parse_head(b"HTTP/1.1 200 OK") == (200, {}, 15)
    assert parse_head(b"") == (0, {}, 0)
    assert dechunked(b"<p>not chunked") == Body(data=None)
    assert dechunked(b"3\r\nabc\r\nzz\r\n") == Body(data=b"abczz\r\n", cut=True)
    assert dechunked(b"-3\r\nabc") == Body(data=None)
    assert stored_body(b"x", {"content-encoding": "identity"}, 1) == Body(data=b"x")


@pytest.mark.parametrize(
    ("name", "num_pages", "reasons"),
    [
        (
            "aut/example.warc.gz",
            130,
            {"not-http": 38, "content-type": 84, "http-301": 2, "http-302": 5, "http-404": 40},
        ),
        ("aut/example.arc.gz", 0, {"unsupported-format": 1}),
        ("resiliparse/warcfile.warc", 16, {}),
        ("resiliparse/warcfile.warc.gz", 16, {}),
        ("resiliparse/warcfile.warc.lz4", 16, {}),
        ("resiliparse/clueweb-quirk.warc.gz", 29, {}),
        ("resiliparse/clipped.warc.gz", 0, {"truncated": 1}),
        ("commoncrawl_whirlwind/whirlwind.warc.wet.gz", 1, {}),
        ("warcio/example-trunc.warc", 1, {"malformed": 1}),
        ("warcio/example-iana.org-chunked.warc", 1, {}),
    ],
)
def test_real_archives(name: str, num_pages: int, reasons: dict[str, int]) -> None:
    items = read_all(corpus(shared(name)))
    assert sum(isinstance(item, Page) for item in items) == num_pages
    assert Counter(item.reason for item in items if isinstance(item, Reject)) == reasons


def test_the_same_archive_in_three_compressions_gives_the_same_pages() -> None:
    plain, gz, lz4 = (read_all(corpus(shared(f"resiliparse/warcfile.warc{end}"))) for end in ("", ".gz", ".lz4"))
    assert plain == gz == lz4
    assert all(isinstance(page, Page) and b"<" in page.body for page in plain)
