"""The sources by name: the one line to add for a new one."""

from __future__ import annotations

import importlib
from typing import cast

from rag_hpc.sources.base import Source, SourceName

SOURCES: dict[SourceName, tuple[str, str]] = {
    SourceName.site: ("rag_hpc.sources.site", "SiteSource"),
    SourceName.warc: ("rag_hpc.sources.warc", "WarcSource"),
    SourceName.files: ("rag_hpc.sources.files", "FilesSource"),
    SourceName.beir: ("rag_hpc.sources.beir", "BeirSource"),
    SourceName.pydoc: ("rag_hpc.sources.pydoc", "PydocSource"),
    SourceName.parquet: ("rag_hpc.sources.parquet", "ParquetSource"),
    SourceName.commoncrawl: ("rag_hpc.sources.commoncrawl", "CommonCrawlSource"),
    SourceName.wikidump: ("rag_hpc.sources.wikidump", "WikiDumpSource"),
    SourceName.wikiapi: ("rag_hpc.sources.wikiapi", "WikiApiSource"),
}


def get_source(name: SourceName) -> Source:
    """Return a source; its module, and the libraries that it needs, are imported only now."""
    module, class_name = SOURCES[name]
    return cast(Source, getattr(importlib.import_module(module), class_name)())
