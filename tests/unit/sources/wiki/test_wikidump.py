"""Wikipedia dumps as a source."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagerun import run_stage

from rag_hpc.errors import InputError
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files.compress import TruncatedStream
from rag_hpc.sources.wiki.wikidump import BadPage, WikiDumpConfig, WikiDumpSource, parse_page, split_pages
from rag_hpc.stores.page import Page, Reject

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)
HEAD = b"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = b"</mediawiki>\n"


def page(
    page_id: int, title: str = "", text: str = "Some ''text''.", ns: int = 0, extra: str = "", model: str = "wikitext"
) -> bytes:
    return f"""  <page>
    <title>{escape(title or f"Article {page_id}")}</title>
    <ns>{ns}</ns>
    <id>{page_id}</id>{extra}
    <revision>
      <id>{1000 + page_id}</id>
      <timestamp>2026-01-02T03:04:05Z</timestamp>
      <contributor><username>x</username><id>7</id></contributor>
      <model>{model}</model>
      <text bytes="9" xml:space="preserve">{escape(text)}</text>
    </revision>
  </page>
""".encode()


def corpus(path: Path, **changes: Any) -> WikiDumpConfig:
    return WikiDumpConfig(path=str(path), **changes)


def read_all(config: WikiDumpConfig) -> list[Page | Reject]:
    source = WikiDumpSource()
    parts = source.split(config, Path())
    assert parts == json.loads(json.dumps(source.split(config, Path())))
    return [item for part in parts for item in source.read(part, config, CONTEXT)]


def ids(items: list[Page | Reject]) -> list[str]:
    return [
        item.doc_id.rpartition("/")[2] if isinstance(item, Page) else f"{item.reason}:{item.id.rpartition('/')[2]}"
        for item in items
    ]


def dump(*pages: bytes) -> bytes:
    return HEAD + b"".join(pages) + TAIL


def multistream(pages: list[bytes], size: int) -> bytes:
    """Return a dump as Wikipedia packs it: a stream for the head, one for each `size` pages, one for the tail."""
    groups = [b"".join(pages[at : at + size]) for at in range(0, len(pages), size)]
    return b"".join(map(bz2.compress, [HEAD, *groups, TAIL]))


def test_articles_become_markdown_and_the_rest_says_why_not(tmp_path: Path) -> None:
    text = "'''Ä''' & <b>b</b>\n== Kopf ==\n[[Datei:x.png]]{{weg}}Text [[Kategorie:K]]"
    (tmp_path / "w.xml").write_bytes(
        dump(
            page(1, 'Ä & "B"/C?', text),
            page(2, "Alt", extra='\n<redirect title="Neu &amp; gut" />'),
            page(3, "Vorlage:V", ns=10),
            page(4, "Leer", "{{nur|Vorlagen}}"),
            page(5, "Common.css", model="css"),
            page(6).replace(b"<title>Article 6</title>", b""),
            page(7).replace(b"</ns>", b""),
            page(8).replace(b"Some", b"&unknown; \xff"),
            page(9),
            page(10, text="x" * 30_000),
        )
    )
    items = read_all(corpus(tmp_path, max_page_bytes=20_000))
    assert items[0] == Page(
        doc_id="https://de.wikipedia.org/wiki/%C3%84_&amp;_%22B%22/C%3F".replace("&amp;", "%26"),
        url="https://de.wikipedia.org/wiki/%C3%84_%26_%22B%22/C%3F",
        body="Ä & b\n## Kopf\nText".encode(),
        content_type="text/markdown",
        charset="utf-8",
        title='Ä & "B"/C?',
        meta={"page_id": 1, "revision": "1001", "timestamp": "2026-01-02T03:04:05Z", "categories": ["K"]},
    )
    assert ids(items[1:]) == [
        "redirect:Alt",
        "namespace-10:Vorlage:V",
        "no-text:Leer",
        "model:Common.css",
        "malformed:w.xml@0#5",
        "malformed:w.xml@0#6",
        "malformed:w.xml@0#7",
        "Article_9",
        "too-large:w.xml@0#9",
    ]
    assert isinstance(items[1], Reject) and items[1].detail == "to Neu & gut"


def test_a_dump_without_a_site_names_articles_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "w.xml.gz").write_bytes(gzip.compress(b"<mediawiki>" + page(12) + TAIL))
    (found,) = read_all(corpus(tmp_path))
    assert isinstance(found, Page) and (found.doc_id, found.url) == ("wiki:12", "")


PAGES = [page(n, text=f"Text of {n}. " * (1 + n * 7 % 50)) for n in range(60)]
NAMES = [f"Article_{n}" for n in range(60)]


@pytest.mark.parametrize("unit_bytes", [1, 300, 5_000, 1 << 30])
@pytest.mark.parametrize("packing", ["multistream", "blocks", "plain", "single", "gz"])
def test_the_pages_do_not_depend_on_how_a_dump_is_packed_and_cut(tmp_path: Path, packing: str, unit_bytes: int) -> None:
    whole = dump(*PAGES)
    blocks = [whole[at : at + 997] for at in range(0, len(whole), 997)]  # as pbzip2 does: streams cut anywhere
    name, body = {
        "multistream": ("w.xml.bz2", multistream(PAGES, 7)),
        "plain": ("w.xml", whole),
        "blocks": ("w.xml.bz2", b"".join(map(bz2.compress, blocks))),
        "single": ("w.xml.bz2", bz2.compress(whole)),
        "gz": ("w.xml.gz", gzip.compress(whole)),
    }[packing]
    (tmp_path / name).write_bytes(body)
    config = corpus(tmp_path, unit_bytes=max(unit_bytes, 500 if packing == "plain" else 1))
    assert ids(read_all(config)) == NAMES
    num_parts = len(WikiDumpSource().split(config, tmp_path))
    assert (num_parts > 3) == (unit_bytes <= (5_000 if packing == "plain" else 300) and packing not in ("single", "gz"))
    for cap in (1, 7, 8, 59, 60, 61):
        capped = corpus(tmp_path, unit_bytes=config.unit_bytes, max_pages=cap)
        assert ids(read_all(capped)) == NAMES[:cap]


def test_the_output_of_a_crawl_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    (tmp_path / "w.xml.bz2").write_bytes(multistream(PAGES, 7))
    settings = {"source": "wikidump", "path": str(tmp_path / "w.xml.bz2"), "unit_bytes": 300}
    found = [run_stage(tmp_path / f"p{p}", "crawl", settings, {}, p=p, seed=p) for p in (1, 2, 7)]
    assert len({manifest.output_hash for manifest in found}) == 1
    assert len(found[0].units) > 7 and found[0].total("items_out") == 60


@settings(max_examples=150, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=12), bound=st.integers(0, 400))
def test_each_page_has_one_owner_wherever_ranges_and_chunks_are_cut(cuts: list[int], bound: int) -> None:
    data = b"<x>" + b"".join(b"<page>%d<page </page>  <pag" % n for n in range(9)) + b"</mediawiki>\n"
    bound = min(bound, len(data))

    def chunks(start: int, stop: int) -> Iterator[bytes]:
        places = sorted({start, stop, *(cut for cut in cuts if start < cut < stop)})
        return iter([data[a:b] for a, b in zip(places, places[1:], strict=False)])

    whole = list(split_pages(chunks(0, len(data)), None, 100))
    parts = [
        *split_pages(chunks(0, bound), chunks(bound, len(data)), 100),
        *split_pages(chunks(bound, len(data)), None, 100),
    ]
    assert whole == parts == [b"<page>%d<page </page>" % n for n in range(9)]


@pytest.mark.parametrize("cut", range(40, 4000, 397))
def test_a_dump_cut_anywhere_keeps_what_is_whole_and_says_so(tmp_path: Path, cut: int) -> None:
    body = multistream(PAGES[:20], 3)
    (tmp_path / "w.xml.bz2").write_bytes(body[: min(cut, len(body) - 20)])
    items = read_all(corpus(tmp_path, unit_bytes=500))
    assert ids(items)[:-1] == NAMES[: len(items) - 1]
    assert isinstance(items[-1], Reject) and items[-1].reason in ("truncated", "malformed")


def test_a_damaged_stream_costs_its_own_pages(tmp_path: Path) -> None:
    body = bytearray(multistream(PAGES, 10))
    body[len(body) // 2] ^= 255
    (tmp_path / "w.xml.bz2").write_bytes(body)
    items = read_all(corpus(tmp_path, unit_bytes=1))
    assert sum(isinstance(item, Page) for item in items) >= 50 and ids(items)[-1] == NAMES[-1]
    assert [item.reason for item in items if isinstance(item, Reject)] == ["truncated"]


def test_a_file_that_is_no_dump_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<rss></rss>")
    (tmp_path / "b.xml.bz2").write_bytes(b"no bzip2")
    assert [item.reason for item in read_all(corpus(tmp_path)) if isinstance(item, Reject)] == ["malformed"] * 2
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"no \.xml/"):
        WikiDumpSource().split(corpus(tmp_path / "*.txt"), tmp_path)


LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    "xml",
    [
        LAUGHS + b"<page><title>&c;</title></page>",
        b"<page><title>&c;</title></page>",
        b"<page><title>&#0;</title></page>",
        b"<page>" + b"<a>" * 100_000,
        b"<page><title>x</page>",
        b"\xff\xfe<\x00p\x00",
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><page><title>&x;</title></page>',
    ],
)
def test_hostile_xml_is_malformed_and_expands_nothing(xml: bytes) -> None:
    with pytest.raises(BadPage) as caught:
        parse_page(xml)
    assert caught.value.reason == "malformed"


def test_a_document_type_in_the_head_of_a_dump_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "w.xml").write_bytes(LAUGHS + dump(page(1), page(2).replace(b"Some", b"&c;")))
    assert ids(read_all(corpus(tmp_path))) == ["Article_1", "malformed:w.xml@0#1"]


def test_memory_is_bounded_by_a_page(tmp_path: Path) -> None:
    with bz2.open(tmp_path / "w.xml.bz2", "wb") as file:
        file.write(HEAD + b"<page>" + b"x" * 20_000_000 + b"</page>")
        file.write(b"".join(PAGES) * 10 + page(99) + TAIL)
    tracemalloc.start()
    items = read_all(corpus(tmp_path, max_page_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids(items)[0].startswith("too-large") and ids(items)[-1] == "Article_99" and len(items) == 602
    assert peak < 12_000_000


@pytest.mark.parametrize(("data", "after"), [(b"<page>x", []), (b"<page>x", None), (b"<page></page>", None)])
def test_a_page_or_dump_without_end_is_told(data: bytes, after: list[bytes] | None) -> None:
    with pytest.raises(TruncatedStream):
        list(split_pages([data], after, 100))
