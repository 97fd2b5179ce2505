"""Web archives as a source: pages of WARC responses, texts of WET records, titles and descriptions of WAT records.

Formats: ISO 28500 (WARC 1.1); WAT: Common Crawl's, JSON about the records of a WARC file. The older ARC format is
recognised and rejected.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.algo.text.charset import page_charset
from rag_hpc.algo.text.headers import HTML_TYPES, media_type
from rag_hpc.sources.base import PathConfig, ReadContext, SourceName
from rag_hpc.sources.files.compress import (
    GZIP,
    GZIP_MAGIC,
    PLAIN,
    ChunkReader,
    TruncatedStream,
    inflated_start,
    stream_chunks,
)
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
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? +(\d{3})")


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
    for found in _records(archive, cap):
        if isinstance(found, Page):
            count = seen[found.doc_id] = seen.get(found.doc_id, 0) + 1
            if count > 1:
                found.doc_id = f"{found.doc_id}#{count}"
        yield found


def _records(archive: Archive, cap: int) -> Iterator[Page | Reject]:
    """Yield pages and rejects by record; after a malformed header, the scan goes on at the next one that is whole."""
    num_records = 0
    for quirks in (False, True):
        stream = archive.open()
        try:
            for number, record in enumerate(_iterate(stream, quirks), start=1):
                if quirks and number <= num_records:
                    continue
                found = _visit(record, cap)
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


def _visit(record: WarcRecord, cap: int) -> Page | Reject | None:
    """Return what one record gives, None for the types that hold no page."""
    from fastwarc.warc import WarcRecordType

    uri = (record.headers.get("WARC-Target-URI") or "").strip("<> ").encode("utf-8", "replace").decode("utf-8")
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
    content_type = headers.get("content-type", "")
    if media_type(content_type) not in PAGE_TYPES:
        return Reject(id=uri, reason="content-type", detail=content_type[:200] or "none sent")
    body = _rest(record, block[start:], uri, cap)
    if isinstance(body, Reject):
        return body
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = dechunked(body)
    coding = headers.get("content-encoding", "").lower()
    try:
        decoded = inflated(body, coding, cap)
    except zlib.error as error:
        return Reject(id=uri, reason="content-encoding", detail=f"{coding}: {error}"[:200])
    if decoded is None:
        return Reject(id=uri, reason="too-large", detail=f"over {cap} bytes when decompressed")
    return _page(record, uri, content_type, decoded, cap)


def _resource(record: WarcRecord, uri: str, cap: int) -> Page | Reject:
    """Return the page of a file that was archived without HTTP."""
    content_type = record.headers.get("Content-Type") or ""
    if media_type(content_type) not in PAGE_TYPES:
        return Reject(id=uri, reason="content-type", detail=content_type[:200] or "none stated")
    body = _rest(record, b"", uri, cap)
    return body if isinstance(body, Reject) else _page(record, uri, content_type, body, cap)


def _page(record: WarcRecord, uri: str, content_type: str, body: bytes, cap: int) -> Page | Reject:
    mime = media_type(content_type)
    charset = page_charset(body, content_type)
    pages: dict[str, Any] = {}
    if mime == PDF_TYPE:
        try:
            text, chars = pdf_text(body, cap)
        except PdfError as error:
            return Reject(id=uri, reason=error.reason, detail=error.detail)
        body, mime, charset, pages = text.encode(), "text/plain", "utf-8", {PAGE_CHARS: chars}
    cut = record.headers.get("WARC-Truncated")  # the crawler's own cap, usual in Common Crawl; the page is kept
    meta = pages | ({"truncated": cut} if cut else {})
    return Page(doc_id=uri, url=uri, body=body, content_type=mime, charset=charset or "utf-8", meta=meta)


def parse_head(block: bytes) -> tuple[int, dict[str, str], int]:
    """Return (status, headers with lower-case names, where the body starts); status 0 if there is no HTTP head.

    Lines may end in a bare newline, as in ClueWeb09, whose heads stricter parsers do not read.
    """
    end = _HEAD_END.search(block)
    lines = (block[: end.start()] if end else block).decode("latin-1").split("\n")
    status = _STATUS.match(lines[0])
    if status is None:
        return 0, {}, 0
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return int(status[1]), headers, end.end() if end else len(block)


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


def dechunked(body: bytes) -> bytes:
    """Return an HTTP/1.1 chunked body joined, or as it is where it is not chunked: archivers often store it decoded."""
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        end = body.find(b"\r\n", at, at + 64)
        head = body[at:end].partition(b";")[0].strip() if end >= 0 else b""
        try:
            size = int(head, 16)
        except ValueError:
            return b"".join(pieces) or body
        if size <= 0 or not head.isalnum():
            break
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)


def inflated(body: bytes, coding: str, cap: int) -> bytes | None:
    """Return the body without its content coding, None if it is over `cap` bytes; as it is if it was stored decoded.

    Raises zlib.error on damage and on codings that are not known.
    """
    if body[:1] in (b"<", b"") or (coding in GZIP and not body.startswith(GZIP_MAGIC)):
        return body
    return body if coding in PLAIN else inflated_start(body, coding, cap)
