"""A fetched page, and what could not become one."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any


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
