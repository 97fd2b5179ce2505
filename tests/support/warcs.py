"""Web archives that a test writes down, and what the source makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_hpc.sources.archives.warc import WarcConfig, WarcSource
from rag_hpc.sources.base import ReadContext
from rag_hpc.stores.page import Page, Reject

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"


def record(uri: str, block: bytes, kind: str = "response", extra: str = "", length: int | None = None) -> bytes:
    target = f"WARC-Target-URI: {uri}\r\n" if uri else ""
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\n{target}WARC-Record-ID: <urn:x:{uri}>\r\n{extra}"
    size = len(block) if length is None else length
    return f"{head}Content-Type: application/http\r\nContent-Length: {size}\r\n\r\n".encode() + block + b"\r\n\r\n"


def corpus(path: Path, **changes: Any) -> WarcConfig:
    return WarcConfig(path=str(path), **changes)


def read_all(config: WarcConfig) -> list[Page | Reject]:
    source = WarcSource()
    parts = source.split(config, Path())
    return [item for part in parts for item in source.read(part, config, CONTEXT)]


def read_bytes(tmp_path: Path, content: bytes, name: str = "a.warc", **changes: Any) -> list[Page | Reject]:
    (tmp_path / name).write_bytes(content)
    return read_all(corpus(tmp_path / name, **changes))


def ids(items: list[Page | Reject]) -> list[str]:
    return [item.doc_id if isinstance(item, Page) else f"{item.reason}:{item.id}" for item in items]
