"""Web archives as a source: pages of WARC responses, texts of WET records, titles and descriptions of WAT records.

Formats: ISO 28500 (WARC 1.1); WAT: Common Crawl's, JSON about the records of a WARC file. The older ARC format is
recognised and rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.algo.text.charset import page_charset
from rag_hpc.algo.text.headers import HTML_TYPES, SNIFFED_TYPES, is_markup, media_type, sent_type
from rag_hpc.sources.archives.message import parse_head, stored_body
from rag_hpc.sources.archives.revisits import Revisit, Revisits
from rag_hpc.sources.base import PathConfig, ReadContext, SourceName
from rag_hpc.sources.files.coding import CodingError
from rag_hpc.sources.files.compress import ChunkReader, TruncatedStream, stream_chunks
from rag_hpc.sources.files.jsonl import BadRecord, parse_record
from rag_hpc.sources.files.paths import (
    PathSource,
    cap_parts,
    corpus_root,
    file_item,
    follows,
    item_reject,
    planned_file,
    take_pages,
)
from rag_hpc.sources.files.pdf import PDF_TYPE, PdfError, pdf_text
from rag_hpc.stores.documents import PAGE_CHARS
from rag_hpc.stores.page import Page, Reject

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

SUFFIXES = (".warc", ".wet", ".wat", ".arc")
PACKED = (".gz", ".zst", ".lz4")
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # first in a .warc.zst whose records need one
PAGE_TYPES = (*HTML_TYPES, "text/plain", PDF_TYPE)
MAX_HEAD_BYTES = 1 << 16
_ABOUT_CRAWL = ("metadata:", "urn:", "dns:", "warcinfo:", "filedesc:", "whois:")  # what crawlers file of themselves
_PDF_MAGIC = b"%PDF-"


@dataclass(kw_only=True)
class WarcConfig(PathConfig):
    """Settings of `corpus=warc`."""

    source: SourceName = SourceName.warc


class WarcSource(PathSource):
    """Pages in archives: HTTP 200 responses and resources in HTML, text or PDF, WET and WAT records; ids are URIs."""

    def split(self, corpus: WarcConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one part per archive, by path. With `max_pages`, archives are read until they hold that many."""
        root, names = corpus_root(corpus.path), self.corpus_files(corpus, is_archive, "/".join(SUFFIXES))
        parts = [file_item(root, name, follow=follows(corpus)) for name in names]
        return cap_parts(parts, corpus.max_pages, lambda part: read_file(root, part, corpus.max_page_bytes))

    def read(self, part: dict[str, Any], corpus: WarcConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the archive's pages and rejects in file order; a URI seen before in it gets "#2", "#3", ..."""
        with closing(read_file(corpus_root(corpus.path), part, corpus.max_page_bytes)) as found:
            yield from take_pages(found, part["max_pages"])


@dataclass(kw_only=True)
class Archive:
    """An archive's name, which tells how it is packed, and how to read it from the start."""

    name: str
    open: Callable[[], Any]  # a ChunkReader of the unpacked archive, or a file that fastwarc unpacks


def read_file(root: Path, part: dict[str, Any], cap: int) -> Generator[Page | Reject, None, None]:
    """Yield everything in a planned archive file. Raises InputError if it vanished or changed."""
    name = part["path"]
    if (reject := item_reject(part)) is not None:
        yield reject
        return
    path = planned_file(root, part)
    with closing(read_archive(Archive(name=name, open=partial(_open, path)), cap)) as found:
        yield from found


def is_archive(name: str) -> bool:
    """Return True if the file name is that of a web archive."""
    plain = name.lower()
    for suffix in PACKED:
        plain = plain.removesuffix(suffix)
    return plain.endswith(SUFFIXES)


def read_archive(archive: Archive, cap: int) -> Generator[Page | Reject, None, None]:
    """Yield everything in one archive, ids made unique; damage is a Reject with the archive's name, never fatal."""
    seen: dict[str, int] = {}
    for found in _with_revisits(archive, cap):
        if isinstance(found, Page):
            count = seen[found.doc_id] = seen.get(found.doc_id, 0) + 1
            if count > 1:
                found.doc_id = f"{found.doc_id}#{count}"
        yield found


def _with_revisits(archive: Archive, cap: int) -> Iterator[Page | Reject]:
    """Yield pages and rejects by record; then, from a second reading if there are any, the revisits of other URIs."""
    revisits = Revisits()
    for found in _records(archive, partial(_visit, cap=cap)):
        if not isinstance(found, Revisit):
            yield found
        elif (reject := revisits.add(found)) is not None:
            yield reject
    if not revisits:
        return
    for original in _records(archive, partial(_original, cap=cap, revisits=revisits)):
        if isinstance(original, Page):
            yield from revisits.pages(original)
    yield from revisits.rejects()


def _records(
    archive: Archive, visit: Callable[[WarcRecord], Page | Reject | Revisit | None]
) -> Iterator[Page | Reject | Revisit]:
    """Yield what `visit` gives by record; after a malformed header, the scan goes on at the next one that is whole."""
    num_records = 0
    for quirks in (False, True):
        stream = archive.open()
        try:
            for number, record in enumerate(_iterate(stream, quirks), start=1):
                if quirks and number <= num_records:
                    continue
                found = visit(record)
                num_records = number
                if found is not None:
                    yield found
            return
        except TruncatedStream as error:
            yield Reject(id=f"{archive.name}#{num_records + 1}", reason=error.reason, detail=str(error))
            return
        except (OSError, RuntimeError) as error:
            place = f"{archive.name}#{num_records + 1}"
            if num_records == 0 and _is_arc(archive):
                yield Reject(
                    id=archive.name, reason="unsupported-format", detail="an ARC file; convert it to WARC (warcio)"
                )
                return
            if not isinstance(stream, ChunkReader):
                yield Reject(id=place, reason="truncated", detail=str(error))
                return
            yield Reject(id=place, reason="malformed", detail=str(error))
            if num_records == 0:
                return
        finally:
            stream.close()


def _open(path: Path) -> Any:
    """Return a readable file: ours tells a cut from an end and sees bombs; lz4 and zstd dictionaries are fastwarc's."""
    suffix = path.suffix.lower()
    if suffix in (".lz4", ".zst"):
        raw = path.open("rb")
        if suffix == ".lz4" or raw.read(4) == ZSTD_DICTIONARY:
            raw.seek(0)
            return raw
        raw.close()
    return ChunkReader(stream_chunks(path))


def _iterate(stream: Any, quirks: bool) -> Iterator[WarcRecord]:
    from fastwarc.warc import ArchiveIterator

    return iter(ArchiveIterator(stream, parse_http=False, quirks_mode=quirks))


def _is_arc(archive: Archive) -> bool:
    try:
        with closing(archive.open()) as stream:
            return bytes(stream.read(9)) == b"filedesc:"
    except TruncatedStream:
        return False


def _uri(record: WarcRecord) -> str:
    return (record.headers.get("WARC-Target-URI") or "").strip("<> ").encode("utf-8", "replace").decode("utf-8")


def _original(record: WarcRecord, cap: int, revisits: Revisits) -> Page | Reject | None:
    """Return the page of a record that a revisit refers to."""
    from fastwarc.warc import WarcRecordType

    if record.record_type == WarcRecordType.response and revisits.refer_to(record.headers, _uri(record)):
        return _response(record, _uri(record), cap)
    return None


def _visit(record: WarcRecord, cap: int) -> Page | Reject | Revisit | None:
    """Return what one record gives, None for the types that hold no page."""
    from fastwarc.warc import WarcRecordType

    uri = _uri(record)
    name = uri or record.record_id or "record without a name"
    if record.headers.get("Content-Length") is None:
        return Reject(id=name, reason="malformed", detail="no Content-Length, or the archive ends in a header")
    if record.record_type == WarcRecordType.response and uri:
        return _response(record, uri, cap)
    if record.record_type == WarcRecordType.conversion and uri:
        return _conversion(record, uri, cap)
    if record.record_type == WarcRecordType.resource and uri:
        return _resource(record, uri, cap)
    if record.record_type == WarcRecordType.metadata and record.headers.get("Content-Type") == "application/json":
        return _wat(record, uri or name, cap)
    if record.record_type in (WarcRecordType.response, WarcRecordType.conversion):
        return Reject(id=name, reason="no-uri", detail="the record has no WARC-Target-URI")
    length = record.content_length
    if record.reader.consume() < length:
        return Reject(id=name, reason="truncated", detail="the archive ends in this record")
    if record.record_type == WarcRecordType.revisit:
        return Revisit.of(record.headers, name)
    if record.record_type == WarcRecordType.continuation:
        first = record.headers.get("WARC-Segment-Origin-ID") or "a record that it does not name"
        return Reject(id=name, reason="segment", detail=f"a further part of {first}, whose page is marked truncated")
    return None


def _conversion(record: WarcRecord, uri: str, cap: int) -> Page | Reject:
    body = _rest(record, b"", uri, cap)
    if isinstance(body, Reject):
        return body
    return Page(doc_id=uri, url=uri, body=body, content_type="text/plain", charset="utf-8")


def _wat(record: WarcRecord, uri: str, cap: int) -> Page | Reject | None:
    """Return title and description of an HTML response; None for what WAT says of other records."""
    body = _rest(record, b"", uri, cap)
    if isinstance(body, Reject):
        return body
    try:
        head = parse_record(body)
    except BadRecord as error:
        return Reject(id=uri, reason=error.reason, detail=error.detail)
    for key in ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata", "Head"):
        inner = head.get(key)
        if not isinstance(inner, dict):
            return None
        head = inner
    title = head.get("Title")
    texts = [title] if isinstance(title, str) else []
    for item in head["Metas"] if isinstance(head.get("Metas"), list) else []:
        if isinstance(item, dict) and isinstance(item.get("content"), str):
            name = str(item.get("name") or item.get("property")).lower()
            texts += [item["content"]] if name in ("description", "og:description") else []
    texts = list(dict.fromkeys(filter(None, (" ".join(text.split()) for text in texts))))
    if not texts:
        return Reject(id=uri, reason="no-text", detail="neither title nor description")
    return Page(
        doc_id=uri,
        url=uri,
        body="\n\n".join(texts).encode("utf-8", "replace"),
        content_type="text/plain",
        charset="utf-8",
        title=texts[0] if isinstance(title, str) else "",
    )


def _response(record: WarcRecord, uri: str, cap: int) -> Page | Reject:
    if not uri.lower().startswith(("http://", "https://")):
        return Reject(id=uri, reason="not-http", detail="a response of another protocol")
    block = record.reader.read(min(record.content_length, MAX_HEAD_BYTES))
    if len(block) < min(record.content_length, MAX_HEAD_BYTES):
        return Reject(id=uri, reason="truncated", detail="the archive ends in this record")
    status, headers, start = parse_head(block)
    if status == 0:
        return Reject(id=uri, reason="bad-http", detail=f"no HTTP head in {block[:60]!r}")
    if status != 200:
        return Reject(id=uri, reason=f"http-{status}")
    stated = headers.get("content-type", "")
    if not _may_be_page(stated):
        return Reject(id=uri, reason="content-type", detail=stated[:200])
    stored = _rest(record, block[start:], uri, cap)
    if isinstance(stored, Reject):
        return stored
    try:
        body = stored_body(stored, headers, cap)
    except CodingError as error:
        return Reject(id=uri, reason="content-encoding", detail=str(error)[:200])
    if body.data is None:
        return Reject(id=uri, reason="too-large", detail=f"over {cap} bytes when decompressed")
    if body.cut and not body.data:
        return Reject(id=uri, reason="truncated", detail="nothing is left of the body")
    return _page(record, uri, stated, body.data, cap, cut="unspecified" if body.cut else "")


def _resource(record: WarcRecord, uri: str, cap: int) -> Page | Reject:
    """Return the page of a file that was archived without HTTP."""
    stated = record.headers.get("Content-Type") or ""
    if uri.lower().startswith(_ABOUT_CRAWL):
        return Reject(id=uri, reason="crawl-log", detail="a record about the crawl, not of the web")
    if not _may_be_page(stated):
        return Reject(id=uri, reason="content-type", detail=stated[:200])
    body = _rest(record, b"", uri, cap)
    return body if isinstance(body, Reject) else _page(record, uri, stated, body, cap)


def _may_be_page(stated: str) -> bool:
    kind = media_type(sent_type([stated]))
    return kind in PAGE_TYPES or kind in SNIFFED_TYPES


def _type_of(record: WarcRecord, stated: str, body: bytes) -> str:
    """Return the type of a body: as sent, else as the crawler identified it, else as it begins; "" if nothing says."""
    for kind in (sent_type([stated]), sent_type([record.headers.get("WARC-Identified-Payload-Type") or ""])):
        if media_type(kind) in PAGE_TYPES:
            return kind
    return "text/html" if is_markup(body) else PDF_TYPE if body.startswith(_PDF_MAGIC) else ""


def _page(record: WarcRecord, uri: str, stated: str, body: bytes, cap: int, cut: str = "") -> Page | Reject:
    content_type = _type_of(record, stated, body)
    mime = media_type(content_type)
    if not mime:
        return Reject(id=uri, reason="content-type", detail=stated[:200] or "none stated")
    charset = page_charset(body, content_type)
    pages: dict[str, Any] = {}
    if mime == PDF_TYPE:
        try:
            text, chars = pdf_text(body, cap)
        except PdfError as error:
            return Reject(id=uri, reason=error.reason, detail=error.detail)
        body, mime, charset, pages = text.encode(), "text/plain", "utf-8", {PAGE_CHARS: chars}
    if record.headers.get("WARC-Segment-Number"):
        cut = "segment"
    cut = record.headers.get("WARC-Truncated") or cut  # the crawler's own cap, usual in Common Crawl; the page is kept
    meta = pages | ({"truncated": cut} if cut else {})
    return Page(doc_id=uri, url=uri, body=body, content_type=mime, charset=charset or "utf-8", meta=meta)


def _rest(record: WarcRecord, head: bytes, uri: str, cap: int) -> bytes | Reject:
    """Return `head` and all that is left of the record, or the Reject for a body over the cap or cut short."""
    left = record.content_length - record.reader.tell()
    if len(head) + left > cap:
        return Reject(id=uri, reason="too-large", detail=f"{len(head) + left} bytes, cap {cap}")
    body = head + (record.reader.read(left) if left else b"")
    missing = record.content_length - record.reader.tell()
    if missing:
        return Reject(id=uri, reason="truncated", detail=f"the archive ends {missing} bytes too early")
    return body
