"""Settings of crawls: those that every crawl has, and those of `corpus=site`."""

from __future__ import annotations

import enum
import fnmatch
import re
from dataclasses import dataclass, field

from rag_hpc.core.settings import DAY_S, bounded
from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import MAX_ROUNDS, FetchConfig, SourceName
from rag_hpc.stores.page import OutputName

Address = tuple[str, int]


class ScopeName(enum.Enum):
    """Which hosts links may lead to, in later rounds of a crawl."""

    host = "host"  # hosts of the seeds
    domain = "domain"  # and their subdomains; www.example.org stands for example.org
    any = "any"


@dataclass(kw_only=True)
class CrawlConfig(FetchConfig):
    """What crawls have in common."""

    delay_s: float = bounded(1.0, 0, DAY_S)  # between two requests to a host
    max_depth: int = 16
    max_ratio: float = bounded(200.0, 1)  # decompressed to sent bytes, of pages over 1 MiB
    allow: list[str] = field(default_factory=list)  # a URL must match one of these patterns, if there are any
    deny: list[str] = field(default_factory=list)  # and none of these
    output: OutputName = OutputName.parquet

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern in (*self.allow, *self.deny):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"corpus.allow, corpus.deny: {pattern!r} is no regular expression: {error}; "
                    "a dot of a name is written \\\\."
                ) from error


@dataclass(kw_only=True)
class SiteConfig(CrawlConfig):
    """Settings of `corpus=site`."""

    source: SourceName = SourceName.site
    seeds: list[str] = field(default_factory=list)
    max_pages_per_host: int = bounded(0, 0)  # 0 = no cap
    hosts_per_unit: int = bounded(32, 1)
    concurrency: int = bounded(256, 1, output=False)  # requests in flight in a worker
    rounds: int = bounded(1, 1, MAX_ROUNDS, output=False)  # links to other hosts are the next round's
    scope: ScopeName = ScopeName.host  # hosts that later rounds may add
    resolve: dict[str, str] = field(default_factory=dict, metadata={"output": False})  # host -> address:port
    previous: str | None = field(default=None, metadata={"output": False, "run": True})  # is checked for news

    def __post_init__(self) -> None:
        super().__post_init__()
        for host, address in self.resolve.items():
            if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}", address):
                raise ConfigError(f"corpus.resolve: {host}: {address!r} is no address:port such as 127.0.0.1:8080")


def parse_resolve(resolve: dict[str, str]) -> dict[str, Address]:
    """Return the entries of `corpus.resolve` as host pattern -> (address, port)."""
    pairs = {host: text.rpartition(":") for host, text in resolve.items()}
    return {host: (address.strip("[]"), int(port)) for host, (address, _, port) in pairs.items()}


def mapped(resolve: dict[str, Address], host: str) -> Address | None:
    """Return where `resolve` says that the host key is served: by its own entry, else by the first pattern."""
    patterns = (address for pattern, address in resolve.items() if fnmatch.fnmatchcase(host, pattern))
    return resolve.get(host) or next(patterns, None)
