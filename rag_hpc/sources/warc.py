"""Web archives as a source: pages of WARC responses and texts of WET records (.warc, .wet, plain, .gz, .zst, .lz4).

Format: ISO 28500 (WARC 1.1). The older ARC format is recognised and rejected.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.sources.base import CorpusConfig, Page, ReadContext, Reject
from rag_hpc.sources.charset import declared_charset, header_charset
from rag_hpc.sources.compress import ChunkReader, TruncatedStream, stream_chunks
from rag_hpc.sources.paths import corpus_files, corpus_root, file_item, planned_file

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

SUFFIXES = (".warc", ".wet", ".arc")
PACKED = (".gz", ".zst", ".lz4")
HTML_TYPES = ("text/html", "application/xhtml+xml")
PAGE_TYPES = (*HTML_TYPES, "text/plain")
MAX_HEAD_BYTES = 1 << 16
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? +(\d{3})")


class WarcSource:
    """Pages in archives: HTTP 200 responses with HTML or text, and conversion records; ids are the target URIs."""

    def split(self, corpus: CorpusConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one part per archive, by path. With `max_pages`, archives are read until they hold that many."""
        root = corpus_root(corpus.path)
        left = corpus.max_pages
        parts = []
        for name in corpus_files(corpus.path, is_archive, "/".join(SUFFIXES)):
            item = file_item(root, name)
            share = 0
            if corpus.max_pages and "bad_name" not in item:
                with closing(_read_archive(root / name, name, corpus.max_page_bytes)) as found:
                    share = sum(1 for _ in islice(found, left))
            parts.append({**item, "max_pages": share})
            left -= share
            if corpus.max_pages and left == 0:
                break
        return parts

    def read(self, part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the archive's pages and rejects in file order; a URI seen before in it gets "#2", "#3", ..."""
        name = part["path"]
        if "bad_name" in part:
            yield Reject(id=name, reason="bad-name", detail="the file name is not UTF-8")
            return
        path = planned_file(corpus_root(corpus.path), part)
        with closing(_read_archive(path, name, corpus.max_page_bytes)) as found:
            yield from islice(found, part["max_pages"] or None)


def is_archive(name: str) -> bool:
    """Return True if the file name is that of a web archive."""
    plain = name.lower()
    for suffix in PACKED:
        plain = plain.removesuffix(suffix)
    return plain.endswith(SUFFIXES)


def _read_archive(path: Path, name: str, cap: int) -> Generator[Page | Reject, None, None]:
    """Yield everything in one archive, ids made unique; damage is a Reject with the archive's name, never fatal."""
    seen: dict[str, int] = {}
    for found in _records(path, name, cap):
        if isinstance(found, Page):
            count = seen[found.doc_id] = seen.get(found.doc_id, 0) + 1
            if count > 1:
                found.doc_id = f"{found.doc_id}#{count}"
        yield found


def _records(path: Path, name: str, cap: int) -> Iterator[Page | Reject]:
    """Yield pages and rejects by record; after a malformed header, the scan goes on at the next one that is whole."""
    num_records = 0
    for quirks in (False, True):
        stream = _open(path)
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
            yield Reject(id=f"{name}#{num_records + 1}", reason="truncated", detail=str(error))
            return
        except (OSError, RuntimeError) as error:
            place = f"{name}#{num_records + 1}"
            if num_records == 0 and _is_arc(path):
                yield Reject(id=name, reason="unsupported-format", detail="an ARC file; convert it to WARC (warcio)")
                return
            if path.suffix.lower() in (".lz4", ".zst"):
                yield Reject(id=place, reason="truncated", detail=str(error))
                return
            yield Reject(id=place, reason="malformed", detail=str(error))
            if num_records == 0:
                return
        finally:
            stream.close()


def _open(path: Path) -> Any:
    """Return a readable file: gzip by our own reader, which tells a cut from an end; zstd and lz4 by fastwarc's."""
    if path.suffix.lower() in (".lz4", ".zst"):
        return path.open("rb")
    return ChunkReader(stream_chunks(path))


def _iterate(stream: Any, quirks: bool) -> Iterator[WarcRecord]:
    from fastwarc.warc import ArchiveIterator

    return iter(ArchiveIterator(stream, parse_http=False, quirks_mode=quirks))


def _is_arc(path: Path) -> bool:
    try:
        with closing(stream_chunks(path)) as chunks:
            return next(chunks, b"").startswith(b"filedesc:")
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
    mime = content_type.partition(";")[0].strip().lower()
    if mime not in PAGE_TYPES:
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
    charset = header_charset(content_type) or declared_charset(decoded) or "utf-8"
    cut = record.headers.get("WARC-Truncated")  # the crawler's own cap, usual in Common Crawl; the page is kept
    meta = {"truncated": cut} if cut else {}
    return Page(doc_id=uri, url=uri, body=decoded, content_type=mime, charset=charset, meta=meta)


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
    if coding in ("", "identity") or body[:1] in (b"<", b""):
        return body
    if coding in ("gzip", "x-gzip"):
        if not body.startswith(b"\x1f\x8b"):
            return body
        bits = 31
    elif coding == "deflate":
        bits = 15 if body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else -15
    else:
        raise zlib.error("this content coding is not read")
    inflate = zlib.decompressobj(bits)
    decoded = inflate.decompress(body, cap + 1)
    return None if len(decoded) > cap else decoded
