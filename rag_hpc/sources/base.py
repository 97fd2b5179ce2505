"""What a source of documents is: it splits itself into parts (one per unit) and reads a part into pages."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rag_hpc.errors import ConfigError


class SourceName(enum.Enum):
    """Kinds of sources that a corpus can name."""

    site = "site"
    warc = "warc"
    files = "files"
    beir = "beir"
    pydoc = "pydoc"


@dataclass(kw_only=True)
class Page:
    """One fetched page or file, before extraction."""

    doc_id: str
    url: str
    body: bytes
    content_type: str = "text/html"
    charset: str | None = None
    title: str = ""
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able


@dataclass(kw_only=True)
class Reject:
    """Something that could not become a page, with the reason (a short slug) and a detail for people."""

    id: str
    reason: str
    detail: str = ""


@dataclass(kw_only=True)
class CorpusConfig:
    """Where the documents come from. Fields that do not concern a source are ignored by it."""

    name: str = "corpus"
    source: SourceName = SourceName.files
    path: str | None = None  # folder, file or glob (files, warc, beir)
    max_pages: int = 0  # 0 = no cap
    pages_per_unit: int = 256
    max_page_bytes: int = 20_000_000  # decompressed
    seeds: list[str] = field(default_factory=list)
    delay_s: float = 1.0  # between two requests to a host
    timeout_s: float = 20.0
    max_depth: int = 16
    allow_private: bool = False  # fetch from loopback and private addresses
    user_agent: str = "rag-hpc/0.1"
    questions: str | None = None  # JSONL: {id, text, answers, relevant: {doc_id: grade}}
    id_field: str = "id"
    title_field: str = "title"
    text_field: str = "text"
    url_field: str = "url"
    num_hosts: int = 8  # pydoc: loopback addresses that serve the site
    latency_s: float = 0.0  # pydoc: latency that the server adds to each reply

    def __post_init__(self) -> None:
        if self.max_pages < 0 or self.pages_per_unit < 1 or self.max_page_bytes < 1:
            raise ConfigError("corpus: max_pages >= 0, pages_per_unit >= 1 and max_page_bytes >= 1 are needed")
        if self.delay_s < 0 or self.timeout_s <= 0 or self.latency_s < 0:
            raise ConfigError("corpus: delay_s and latency_s must be >= 0 and timeout_s > 0 (seconds)")
        if self.num_hosts < 1 or self.num_hosts > 200:
            raise ConfigError(f"corpus.num_hosts={self.num_hosts}: between 1 and 200 loopback addresses")


@dataclass(kw_only=True)
class ReadContext:
    """What a source may know of its surroundings while it reads a part."""

    shared: Path  # folder of the run that every worker sees
    should_stop: Callable[[], bool]
    sleep: Callable[[float], None]


class Source(Protocol):
    """A source of documents."""

    def split(self, corpus: CorpusConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one JSON-able part per unit: deterministic and independent of the number of workers."""

    def read(self, part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in a deterministic order."""
