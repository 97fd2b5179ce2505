"""What a round of a crawl takes over from the rounds before it, and from an earlier run's crawl."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.manifest import MANIFEST, Manifest, load
from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import SourceName
from rag_hpc.sources.crawl.config import SiteConfig
from rag_hpc.sources.crawl.frontier import OFFSITE, next_round
from rag_hpc.sources.crawl.scope import Scope
from rag_hpc.sources.crawl.urls import host_key, host_name
from rag_hpc.stores.pages import iter_pages, pages_of
from rag_hpc.stores.tables import REJECTS, read_table


@dataclass
class Frontier:
    """The URLs that earlier rounds found and did not fetch, by host."""

    seeds: dict[str, dict[str, int]] = field(default_factory=dict)  # host -> URL -> least depth
    done: dict[str, set[str]] = field(default_factory=dict)  # host -> URLs fetched or refused, of the hosts in seeds
    num_pages: dict[str, int] = field(default_factory=dict)  # host, whatever the port -> pages fetched


def frontier(earlier: Mapping[str, Manifest], corpus: SiteConfig, hosts: Collection[str] | None = None) -> Frontier:
    """Return what earlier rounds leave to the next one, URLs in the order of the rounds' units; of some hosts only."""
    found, scope = Frontier(), Scope(corpus)
    for url, depth in _targets(earlier):
        host = host_key(url)
        if (hosts is None or host in hosts) and scope.admits(url) and depth <= corpus.max_depth:
            seeds = found.seeds.setdefault(host, {})
            seeds[url] = min(depth, seeds.get(url, depth))
    for url, is_page in _visited(earlier):
        host = host_key(url)
        if is_page:
            name = host_name(host)
            found.num_pages[name] = found.num_pages.get(name, 0) + 1
        if host in found.seeds:
            found.done.setdefault(host, set()).add(url)
            found.seeds[host].pop(url, None)
    found.seeds = {
        host: dict(sorted(urls.items(), key=lambda seed: (seed[1], seed[0])))
        for host, urls in found.seeds.items()
        if urls
    }
    return found


def earlier_crawls(run: str) -> list[Manifest]:
    """Return the finished crawl rounds of a run's folder, the latest of each round.

    Raises ConfigError if there is none, or if they are of another source than web sites.
    """
    latest: dict[str, Path] = {}
    for path in sorted(Path(run).glob(f"crawl*-*/{MANIFEST}"), key=lambda path: (path.stat().st_mtime_ns, path)):
        latest[path.parent.name.rpartition("-")[0]] = path.parent
    if not latest:
        raise ConfigError(
            f"corpus.previous={run}: no finished crawl is there; name a run (rag-hpc status lists them) or its folder"
        )
    crawls = [load(latest[name]) for name in sorted(latest)]
    sources = sorted({crawl.config["source"] for crawl in crawls} - {SourceName.site.value})
    if sources:
        raise ConfigError(f"corpus.previous={run}: its pages are of source={sources[0]}; name a run of corpus=site")
    return crawls


def rows_of_hosts(crawls: list[Manifest], hosts: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the pages of some hosts, as rows."""
    for crawl, index in _units(crawls):
        path = pages_of(crawl, index)
        if any(host_key(row["url"]) in hosts for row in iter_pages(path, ("url",))):
            yield from (row for row in iter_pages(path) if host_key(row["url"]) in hosts)


def _targets(earlier: Mapping[str, Manifest]) -> Iterator[tuple[str, int]]:
    """Yield what pages link to and redirects lead to on other hosts, with the depth there."""
    for crawl, index in _units(earlier.values()):
        for row in iter_pages(pages_of(crawl, index), ("meta", "links")):
            if row["links"]:
                depth = json.loads(row["meta"])["depth"] + 1
                yield from ((url, depth) for url in row["links"].split("\n"))
        yield from (next_round(row["detail"]) for row in _rejects(crawl, index) if row["reason"] == OFFSITE)


def _visited(earlier: Mapping[str, Manifest]) -> Iterator[tuple[str, bool]]:
    """Yield the URLs that were asked for, and whether the URL is that of a page."""
    for crawl, index in _units(earlier.values()):
        for row in iter_pages(pages_of(crawl, index), ("url", "meta")):
            yield row["url"], True
            requested = json.loads(row["meta"]).get("requested")
            if requested:
                yield requested, False
        yield from ((row["id"], False) for row in _rejects(crawl, index) if "://" in row["id"])


def _rejects(crawl: Manifest, index: int) -> list[dict[str, str]]:
    has = index in crawl.holders(REJECTS)
    rows: list[dict[str, str]] = read_table(crawl.file(index, REJECTS)).to_pylist() if has else []
    return rows


def _units(crawls: Collection[Manifest]) -> Iterator[tuple[Manifest, int]]:
    for crawl in crawls:
        yield from ((crawl, unit["index"]) for unit in crawl.units)
