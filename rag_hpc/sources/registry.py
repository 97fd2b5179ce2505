"""The sources by name: the one line to add for a new one."""

from __future__ import annotations

import importlib
from typing import cast

from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import CorpusConfig, Source, SourceName

SOURCES: dict[SourceName, tuple[str, str]] = {
    SourceName.site: ("rag_hpc.sources.crawl.site", "SiteSource"),
    SourceName.warc: ("rag_hpc.sources.archives.warc", "WarcSource"),
    SourceName.files: ("rag_hpc.sources.files.files", "FilesSource"),
    SourceName.beir: ("rag_hpc.sources.files.beir", "BeirSource"),
    SourceName.pydoc: ("rag_hpc.demo.source", "PydocSource"),
    SourceName.parquet: ("rag_hpc.sources.files.parquet", "ParquetSource"),
    SourceName.commoncrawl: ("rag_hpc.sources.archives.commoncrawl", "CommonCrawlSource"),
    SourceName.wikidump: ("rag_hpc.sources.wiki.wikidump", "WikiDumpSource"),
    SourceName.wikiapi: ("rag_hpc.sources.wiki.wikiapi", "WikiApiSource"),
}


def get_source(name: SourceName) -> Source:
    """Return a source; its module, and the libraries that it needs, are imported only now."""
    module, class_name = SOURCES[name]
    return cast(Source, getattr(importlib.import_module(module), class_name)())


def config_class(name: str | None) -> type[CorpusConfig]:
    """Return the dataclass of a source's settings, SiteConfig beside SiteSource; ConfigError lists the known ones."""
    if name not in SourceName.__members__:
        raise ConfigError(f"corpus.source={name}: known are {', '.join(SourceName.__members__)}")
    module, class_name = SOURCES[SourceName[str(name)]]
    return cast(type[CorpusConfig], getattr(importlib.import_module(module), class_name.replace("Source", "Config")))
