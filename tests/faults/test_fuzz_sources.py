"""Mutated archives, dumps, tables and replies: every parser of a source ends in pages and rejects, soon and small.

Long run: RAG_HPC_FUZZ_INPUTS=1000000 nice pytest --timeout=0 tests/faults/test_fuzz_sources.py
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fuzzing import NUM_INPUTS, mutations, survive

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.archives.download import Waits
from rag_hpc.sources.archives.warc import Archive, read_archive
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files.compress import ChunkReader, TruncatedStream, iter_lines, unpacked
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.sources.files.jsonl import BadRecord, Fields, record_page
from rag_hpc.sources.files.parquet import ParquetSource
from rag_hpc.sources.wiki.wikiapi import Api, WikiApiConfig, article
from rag_hpc.sources.wiki.wikidump import BadPage, parse_page, split_pages
from rag_hpc.sources.wiki.wikidump import article as dump_article
from rag_hpc.sources.wiki.wikitext import plain_text
from rag_hpc.stores.page import Page, Reject

CAP = 50_000
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Encoding: %s\r\nTransfer-Encoding: %s\r\n\r\n"
WAT = {
    "Envelope": {
        "Payload-Metadata": {
            "HTTP-Response-Metadata": {
                "HTML-Metadata": {"Head": {"Title": "T", "Metas": [{"name": "description", "content": "D"}]}}
            }
        }
    }
}


def warc(kind: str, content_type: str, block: bytes) -> bytes:
    return (
        (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://h/{kind}\r\nWARC-Record-ID: <urn:x:1>\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
        ).encode()
        + block
        + b"\r\n\r\n"
    )


RECORDS = [
    warc("warcinfo", "application/warc-fields", b"software: x\r\n"),
    warc("response", "application/http", HTTP % (b"text/html; charset=utf-8", b"", b"") + b"<p>one two three"),
    warc(
        "response",
        "application/http",
        HTTP % (b"text/html", b"gzip", b"chunked") + b"%x\r\n" % 29 + gzip.compress(b"<p>packed") + b"\r\n0\r\n\r\n",
    ),
    warc("response", "application/http", HTTP % (b"text/plain", b"deflate", b"") + b"x\x9cK\xca\x07\x00"),
    warc("conversion", "text/plain", "tèxt".encode()),
    warc("resource", "text/html", b"<p>resource"),
    warc("metadata", "application/json", json.dumps(WAT).encode()),
]
DUMP = b"""<mediawiki><siteinfo><base>https://w/wiki/M</base></siteinfo>
<page><title>A &amp; b</title><ns>0</ns><id>1</id><revision><id>2</id><model>wikitext</model><text xml:space="preserve">
'''A''' {{t|x=[[y]]}} &lt;ref&gt;z&lt;/ref&gt; [[File:x|y]]
== H ==
{| class="x"
! a !! b
|-
| c || d
|}</text></revision></page>
<page><title>R</title><ns>0</ns><id>3</id><redirect title="A" /><revision><text /></revision></page></mediawiki>"""
WIKITEXT = [
    b"'''A''' is {{convert|1|km|{{x}}}} [[b|c]]s<ref name=a>[http://x y]</ref>\n== H ==\n* l\n",
    b"{| class=x\n|+ c\n! a !! b\n|-\n| style=y | 1 || [[x]]\n|\n{|\n|n\n|}\n|}\n<pre>== x ==\n</pre><!-- -->",
    b"a{{ndash}}b ({{x}}; -{zh-hans:\xe8\xae\xa1; zh-hant:{{lang|zh|x}}}-) <y> {{quote|text=q}}\n #i\n  x\n<rt>",
    b"{{convert|1|-|2|km}} {{start date|2000|1}} -{H|zh-cn:a;x=>zh-tw:b}- {{val|1|e=3}} ({{nowrap|1=()}}) {{ubl|a|b}}",
    b"<nowiki>[[a]]</nowiki>{{{1|{{a|}}}}}[[Category:K]] <math>x</math> ----\n;a:b\n__TOC__ &amp;&#64;",
]
LINES = [
    b'{"id": "a", "title": "t", "text": "some text", "meta": {"url": "http://x/"}, "n": 1.5e3}\n'
    b'{"id": 7, "html": "<p>\\u00e9\\ud83d\\ude00", "list": [1, [2]], "b": true}\n\n{"text": ""}\n'
]
REPLIES = [
    json.dumps(value).encode()
    for value in (
        {
            "query": {
                "pages": [
                    {"pageid": 1, "title": "T", "fullurl": "http://T", "lastrevid": 9, "extract": "x"},
                    {"pageid": 2, "missing": True},
                ]
            },
            "batchcomplete": True,
        },
        {"continue": {"excontinue": 1, "continue": "||info"}, "query": {"pages": [{"pageid": 1, "redirect": True}]}},
        {"query": {"categorymembers": [{"pageid": 1, "title": "T"}]}},
        {"error": {"code": "maxlag", "info": "lagged"}},
    )
]


def count(items: Iterable[Page | Reject]) -> None:
    for item in items:
        assert isinstance(item, (Page, Reject))
        json.dumps(vars(item), default=len, ensure_ascii=False).encode()  # what a table of pages and rejects can hold


def read_warc(data: bytes, suffix: str = "") -> None:
    count(read_archive(Archive(name=f"a.warc{suffix}", open=lambda: ChunkReader(unpacked([data], suffix))), CAP))


def read_dump(data: bytes) -> None:
    for xml in split_pages([data[:100], data[100:]], None, CAP):
        try:
            count([dump_article(parse_page(xml or b""), {"base": "http://w/", "files": [], "categories": []})])
        except BadPage as error:
            count([Reject(id="x", reason=error.reason, detail=error.detail)])


def read_lines(data: bytes) -> None:
    for line in iter_lines([data], CAP):
        if line.data is not None:
            try:
                count([record_page(line.data, Fields(url="meta.url"), "x")])
            except BadRecord as error:
                count([Reject(id="x", reason=error.reason, detail=error.detail)])


def read_reply(data: bytes) -> None:
    waits = Waits(sleep=lambda wait: None, should_stop=lambda: False)
    api = Api(WikiApiConfig(base="http://127.0.0.1/w/api.php", delay_s=0.0), waits)
    api._remote = SimpleNamespace(get=lambda target, cap: ({"Retry-After": "1"}, data), waits=waits)  # type: ignore
    list(api.members("Category:X", 0))
    count(article(page_id, page, CAP) for page_id, page in api.articles([1, 2]).items())


def read_file(source: Any, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    config = FilesConfig(path=str(path), max_page_bytes=CAP)
    context = ReadContext(shared=path, should_stop=lambda: False, sleep=lambda wait: None)
    for part in source.split(config, path.parent):
        count(source.read(part, config, context))


def tables() -> list[bytes]:
    rows = [{"id": str(n), "text": "word " * n, "meta": {"url": "u", "n": n}, "x": n / 3} for n in range(20)]
    found = []
    for options in ({}, {"compression": "none"}, {"use_dictionary": False, "row_group_size": 7, "compression": "zstd"}):
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file, **options)  # type: ignore[arg-type]
        found.append(file.getvalue())
    return found


def tars() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
            for name in ("a.txt", "d/" * 60 + "é.md", "x.css", "b.html"):
                info = tarfile.TarInfo(name)
                info.size = 600
                tar.addfile(info, io.BytesIO(b"x" * 600))
        found.append(file.getvalue())
    return found


def fuzz(
    parse: Callable[[bytes], object], seeds: list[bytes], allowed: tuple[type[Exception], ...] = (), share: float = 1.0
) -> None:
    num_inputs = int(NUM_INPUTS * share)
    assert survive(parse, mutations(seeds, num_inputs, seed=7), allowed=allowed) == num_inputs


def test_warc() -> None:
    fuzz(read_warc, [b"".join(RECORDS), *RECORDS], share=0.5)
    fuzz(lambda data: read_warc(gzip.compress(data, 1), ".gz"), [b"".join(RECORDS)], share=0.25)
    fuzz(lambda data: read_warc(data, ".gz"), [b"".join(map(gzip.compress, RECORDS))], share=0.25)


def test_wikipedia_xml() -> None:
    fuzz(read_dump, [DUMP], (TruncatedStream,))


def test_wikitext() -> None:
    fuzz(lambda data: plain_text(data.decode("utf-8", "replace")).text.encode(), WIKITEXT)


def test_json_lines() -> None:
    fuzz(read_lines, LINES)


def test_replies_of_mediawiki() -> None:
    fuzz(read_reply, REPLIES, (InputError,))


def test_parquet(tmp_path: Path) -> None:
    fuzz(
        lambda data: read_file(ParquetSource(), tmp_path / "a.parquet", data), tables(), (InputError, ConfigError)
    )  # the latter: a file whose only column of text has another name


def test_tar(tmp_path: Path) -> None:
    fuzz(lambda data: read_file(FilesSource(), tmp_path / "a.tar", data), tars(), (InputError,))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_compressed_streams(suffix: str) -> None:
    pack: Callable[[bytes], bytes] = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}[suffix]
    text = random.Random(1).randbytes(2000).hex().encode()
    fuzz(
        lambda data: sum(map(len, unpacked([data], suffix))),
        [pack(text) + pack(b"x" * 5000), pack(b"")],
        (TruncatedStream,),
    )
