"""Crawled pages as a web archive (WARC 1.1, ISO 28500): a response and a metadata record a page, gzipped one by one.

Record ids come from URL and payload; WARC-Date is the time of the fetch, so the bytes of two crawls differ where the
cleaned documents do not. The payload is decoded: the stored HTTP head says what is there, not what was sent.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rag_hpc.stores.page import Page


class WarcPages:
    """Writes pages to a .warc.gz file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self.num_rows = 0

    def add(self, page: Page) -> None:
        """Append one page."""
        self.num_rows += 1
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(page.fetched_unix))
        sha1 = hashlib.sha1(page.body).digest()
        ids = [
            uuid.UUID(bytes=hashlib.sha1(f"{kind} {page.url} ".encode() + sha1).digest()[:16], version=5)
            for kind in ("response", "metadata")
        ]
        http = f"HTTP/1.1 200 OK\r\nContent-Type: {page.content_type}; charset={page.charset}\r\n"
        for name, header in (("etag", "ETag"), ("last_modified", "Last-Modified")):
            if name in page.meta:
                http += f"{header}: {page.meta[name]}\r\n"
        block = f"{http}Content-Length: {len(page.body)}\r\n\r\n".encode("latin-1", "replace") + page.body
        digest = f"WARC-Payload-Digest: sha1:{base64.b32encode(sha1).decode()}\r\n"
        self._write("response", ids[0], when, page.url, digest, "application/http; msgtype=response", block)
        fields = f"meta: {page.meta_text()}\r\n".encode()
        fields += b"".join(b"outlink: %s\r\n" % url.encode() for url in page.links)
        about = f"WARC-Concurrent-To: <urn:uuid:{ids[0]}>\r\n"
        self._write("metadata", ids[1], when, page.url, about, "application/warc-fields", fields)

    def _write(
        self, kind: str, record_id: uuid.UUID, when: str, url: str, more: str, content_type: str, block: bytes
    ) -> None:
        head = (
            f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{record_id}>\r\nWARC-Date: {when}\r\n"
            f"WARC-Target-URI: {url}\r\n{more}Content-Type: {content_type}\r\n"
            f"Content-Length: {len(block)}\r\n\r\n"
        )
        pack = zlib.compressobj(6, wbits=31)
        self._stream.write(pack.compress(head.encode() + block + b"\r\n\r\n") + pack.flush())

    def __enter__(self) -> WarcPages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stream.close()


def read_pages(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the pages of an archive that WarcPages wrote, as rows of pages.parquet."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    row: dict[str, Any] = {}
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, parse_http=True):
            if record.record_type == WarcRecordType.response:
                url = record.headers["WARC-Target-URI"]
                mime, _, charset = record.http_headers["Content-Type"].partition("; charset=")
                row = {
                    "doc_id": url,
                    "url": url,
                    "title": "",
                    "content_type": mime,
                    "charset": charset,
                    "body": record.reader.read(),
                }
            elif record.record_type == WarcRecordType.metadata:
                fields = [line.partition(": ") for line in record.reader.read().decode().split("\r\n")]
                row["meta"] = next(value for name, _, value in fields if name == "meta")
                row["links"] = "\n".join(value for name, _, value in fields if name == "outlink")
                yield row
