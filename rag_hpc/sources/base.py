"""What a source of documents is: it splits itself into parts (one per unit) and reads a part into pages."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rag_hpc.errors import ConfigError

MAX_ROUNDS = 8  # of a crawl


class SourceName(enum.Enum):
    """Kinds of sources that a corpus can name."""

    site = "site"
    warc = "warc"
    files = "files"
    beir = "beir"
    pydoc = "pydoc"
    parquet = "parquet"
    commoncrawl = "commoncrawl"
    wikidump = "wikidump"
    wikiapi = "wikiapi"


class ScopeName(enum.Enum):
    """Which hosts links may lead to, in later rounds of a crawl."""

    host = "host"  # hosts of the seeds
    domain = "domain"  # and their subdomains; www.example.org stands for example.org
    any = "any"


class OutputName(enum.Enum):
    """How the pages of a crawl are stored."""

    parquet = "parquet"
    warc = "warc"


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
    links: list[str] = field(default_factory=list)  # URLs on other hosts, for the next round of a crawl
    fetched_unix: float = 0.0  # when a crawl got it; only WARC keeps it
    reused: bool = False  # not modified since an earlier crawl, whose body this is

    def meta_text(self) -> str:
        """Return the metadata as JSON on one line."""
        return json.dumps(self.meta, sort_keys=True, ensure_ascii=False)


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
    path: str | None = None  # folder, file or glob; commoncrawl: the list of archives
    max_pages: int = 0  # 0 = no cap
    pages_per_unit: int = 256
    max_page_bytes: int = 20_000_000  # decompressed
    seeds: list[str] = field(default_factory=list)
    delay_s: float = 1.0  # between two requests to a host
    timeout_s: float = 20.0
    max_depth: int = 16
    max_pages_per_host: int = 0  # site: 0 = no cap
    hosts_per_unit: int = 32  # site
    concurrency: int = field(default=256, metadata={"output": False})  # site: requests in flight in a worker
    rounds: int = field(default=1, metadata={"output": False})  # site: links to other hosts are the next round's
    scope: ScopeName = ScopeName.host  # site: hosts that later rounds may add
    allow: list[str] = field(default_factory=list)  # site: a URL must match one of these patterns, if there are any
    deny: list[str] = field(default_factory=list)  # site: and none of these
    resolve: dict[str, str] = field(default_factory=dict, metadata={"output": False})  # site: host -> address:port
    max_ratio: float = 200.0  # site: decompressed to sent bytes, of pages over 1 MiB
    previous: str | None = field(default=None, metadata={"output": False})  # site: run whose pages are checked for news
    output: OutputName = OutputName.parquet  # site, pydoc
    allow_private: bool = False  # fetch from loopback and private addresses
    user_agent: str = "rag-hpc/0.1"
    questions: str | None = None  # JSONL: {id, text, answers, relevant: {doc_id: grade}}
    id_field: str = "id"
    title_field: str = "title"
    text_field: str = "text"
    url_field: str = "url"
    base: str | None = None  # commoncrawl: where the listed archives are; wikiapi: URL of api.php
    sample: float = 1.0  # commoncrawl: share of the archives; a smaller sample is part of a larger one
    max_archives: int = 0  # commoncrawl: 0 = no cap
    unit_bytes: int = 64 << 20  # wikidump: of the file, as it lies there
    categories: list[str] = field(default_factory=list)  # wikiapi; subcategories down to max_depth
    num_hosts: int = 8  # pydoc: loopback addresses that serve the site
    latency_s: float = 0.0  # pydoc: latency that the server adds to each reply

    def __post_init__(self) -> None:
        if self.max_pages < 0 or self.pages_per_unit < 1 or self.max_page_bytes < 1:
            raise ConfigError("corpus: max_pages >= 0, pages_per_unit >= 1 and max_page_bytes >= 1 are needed")
        seconds = (self.delay_s, self.timeout_s, self.latency_s)
        if min(seconds) < 0 or not self.timeout_s or not all(map(math.isfinite, seconds)):
            raise ConfigError("corpus: delay_s and latency_s must be >= 0 and timeout_s > 0 (seconds)")
        self._check_crawl()
        if not 0 < self.sample <= 1 or self.max_archives < 0 or self.unit_bytes < 1:
            raise ConfigError("corpus: 0 < sample <= 1, max_archives >= 0 and unit_bytes >= 1 are needed")
        if self.num_hosts < 1 or self.num_hosts > 200:
            raise ConfigError(f"corpus.num_hosts={self.num_hosts}: between 1 and 200 loopback addresses")

    def _check_crawl(self) -> None:
        if self.hosts_per_unit < 1 or self.concurrency < 1 or self.max_pages_per_host < 0 or not self.max_ratio >= 1:
            raise ConfigError("corpus: hosts_per_unit >= 1, concurrency >= 1, max_pages_per_host >= 0 and max_ratio >= "
                              "1 are needed")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise ConfigError(f"corpus.rounds={self.rounds}: between 1 and {MAX_ROUNDS}")
        for pattern in (*self.allow, *self.deny):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"corpus.allow, corpus.deny: {pattern!r} is no regular expression: {error}; "
                                  "a dot of a name is written \\\\.") from error
        for host, address in self.resolve.items():
            if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}", address):
                raise ConfigError(f"corpus.resolve: {host}: {address!r} is no address:port such as 127.0.0.1:8080")


@dataclass(kw_only=True)
class ReadContext:
    """What a source may know of its surroundings while it reads a part."""

    shared: Path  # folder of the run that every worker sees
    should_stop: Callable[[], bool]
    sleep: Callable[[float], None]
    carry: Path | None = None  # a folder that later attempts at the unit see; None: there will be none
    attempt: str = "attempt"  # a name that no other attempt has
    previous: Iterator[dict[str, Any]] = field(default_factory=lambda: iter(()))  # pages of an earlier crawl, as rows


class Source(Protocol):
    """A source of documents."""

    def split(self, corpus: CorpusConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one JSON-able part per unit: deterministic and independent of the number of workers."""

    def read(self, part: dict[str, Any], corpus: CorpusConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in a deterministic order."""
