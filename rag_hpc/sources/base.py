"""What a source of documents is: it splits itself into parts (one per unit) and reads a part into pages."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rag_hpc.core.settings import DAY_S, bounded, check_bounds, path_field
from rag_hpc.errors import ConfigError
from rag_hpc.stores.page import Page, Reject

MAX_ROUNDS = 8  # of a crawl
MAX_WAIT_S = 120.0  # a longer Retry-After is not waited for
TOTAL_FACTOR = 3  # a whole reply may take this many times what may pass without a byte
ROUNDS = ("crawl", *(f"crawl.{number}" for number in range(2, MAX_ROUNDS + 1)))  # stages; each needs those before it


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


@dataclass(kw_only=True)
class CorpusConfig:
    """Settings that every source has; each has a subclass of this, beside it, with its own."""

    name: str = "corpus"
    source: SourceName = "???"  # type: ignore[assignment]  # omegaconf.MISSING, which workers need not import
    max_pages: int = bounded(0, 0)  # 0 = no cap
    max_page_bytes: int = bounded(20_000_000, 1)  # decompressed
    questions: str | None = path_field(only="file")  # JSONL: {id, text, answers, relevant: {doc_id: grade}}
    # nothing is dropped by length, letters, repeated lines or likeness, unless stage.clean or stage.dedup asks for it
    keep_all: bool = field(default=False, metadata={"output": False})

    def __post_init__(self) -> None:
        if self.source is not type(self).source:
            name = self.source.value
            raise ConfigError(
                f"corpus.source={name}: set corpus={name}, or begin your own file with defaults: [{name}]"
            )
        check_bounds(self, "corpus")


@dataclass(kw_only=True)
class PathConfig(CorpusConfig):
    """Settings of sources that lie in files."""

    path: str | None = path_field()  # folder, file or glob; commoncrawl: the list of archives
    follow_links: bool = field(default=False, metadata={"output": False})  # out of the corpus; else they are rejects


@dataclass(kw_only=True)
class RecordsConfig(PathConfig):
    """Settings of sources whose files hold records."""

    pages_per_unit: int = bounded(256, 1)
    id_field: str = "id"
    title_field: str = "title"
    text_field: str = "text"
    url_field: str = "url"


@dataclass(kw_only=True)
class FetchConfig(CorpusConfig):
    """Settings of sources that other machines serve."""

    timeout_s: float = bounded(20.0, 0.001, DAY_S)
    allow_private: bool = False  # fetch from loopback and private addresses
    user_agent: str = "rag-hpc/0.1"


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

    def split(self, corpus: Any, shared: Path) -> list[dict[str, Any]]:
        """Return one JSON-able part per unit: deterministic and independent of the number of workers."""

    def read(self, part: dict[str, Any], corpus: Any, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in a deterministic order."""
