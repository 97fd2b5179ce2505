"""crawl: from a source to pages, one unit per part of the source (a group of hosts, a file, a range of records).

crawl.2 to crawl.8 are the further rounds of a crawl: each fetches what the rounds before it found on other hosts.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import InputError, Interrupted
from rag_hpc.sources.base import ROUNDS, CorpusConfig, ReadContext, SourceName
from rag_hpc.sources.crawl.config import CrawlConfig
from rag_hpc.sources.crawl.rounds import earlier_crawls, frontier, rows_of_hosts
from rag_hpc.sources.files.paths import PathSource
from rag_hpc.sources.registry import get_source
from rag_hpc.stores.page import OutputName, Page
from rag_hpc.stores.pages import open_pages
from rag_hpc.stores.tables import Rejects

LIBRARIES = ("httptools", "protego", "pyarrow.parquet", "rag_hpc.sources.crawl.crawler")


class Crawl(Stage):
    """Fetches or reads the source's pages."""

    Config: ClassVar[type] = CorpusConfig  # or rather that of the source
    name = "crawl"
    version = 6

    def __init__(self, config: CorpusConfig) -> None:
        super().__init__(config)
        self.exclusive = config.source is SourceName.site  # two workers at one unit would ask its hosts twice

    def setup(self, ctx: Context) -> None:
        """Import what a crawl needs, once and before its clock runs."""
        for library in LIBRARIES if self.exclusive else ():
            importlib.import_module(library)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per part of the source."""
        parts = self._parts(inputs, shared)
        previous = [crawl.output_hash for crawl in self._previous()]
        return [Unit(index, {**part, "previous": previous} if previous else part) for index, part in enumerate(parts)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write the pages; ids that come twice within a unit are rejected."""
        counts, rejects, seen = Counts(), Rejects(), set()
        num_reused = 0
        reading = ReadContext(
            shared=ctx.shared,
            should_stop=lambda: _must_stop(out, ctx),
            sleep=time.sleep,
            carry=ctx.carry,
            attempt=out.name.lstrip("."),
            previous=self._earlier_pages(unit),
        )
        output = self.config.output if isinstance(self.config, CrawlConfig) else OutputName.parquet
        with open_pages(out, output) as pages:
            for item in get_source(self.config.source).read(self._part(unit, ctx), self.config, reading):
                ctx.check_stop()
                counts.items_in += 1
                if not isinstance(item, Page):
                    rejects.add(item.id, item.reason, item.detail)
                elif item.doc_id in seen:
                    rejects.add(item.doc_id, "duplicate-id", item.url)
                else:
                    seen.add(item.doc_id)
                    num_reused += item.reused
                    pages.add(item)
        counts.items_out, counts.dropped = pages.num_rows, rejects.write(out)
        if unit.inputs.get("previous"):
            counts.extra["not_modified"] = num_reused
        return counts

    def _parts(self, inputs: Inputs, shared: Path) -> list[dict[str, Any]]:
        source = get_source(self.config.source)
        parts = source.split(self.config, shared)
        if isinstance(source, PathSource) and source.passed_over:
            self.notes = {"passed_over": source.passed_over}
        if not parts:
            raise InputError(f"corpus {self.config.name}: empty; nothing readable at source={self.config.source.value}")
        return parts

    def _part(self, unit: Unit, ctx: Context) -> dict[str, Any]:
        return unit.inputs

    def _previous(self) -> list[Any]:
        is_site = self.config.source is SourceName.site
        return earlier_crawls(self.config.previous) if is_site and self.config.previous else []

    def _earlier_pages(self, unit: Unit) -> Iterator[dict[str, Any]]:
        wanted = unit.inputs.get("previous", [])
        crawls = [crawl for crawl in self._previous() if crawl.output_hash in wanted] if wanted else []
        if len(crawls) < len(wanted):
            raise InputError(
                f"corpus.previous={self.config.previous}: its crawl is not the one that the plan was made "
                "with; start a run under a new name"
            )
        return rows_of_hosts(crawls, {item["host"] for item in unit.inputs["hosts"]} if wanted else ())


class Round(Crawl):
    """A further round: the hosts and URLs that earlier rounds found and did not fetch."""

    may_be_empty = True

    def __init__(self, config: CorpusConfig, number: int) -> None:
        super().__init__(config)
        self.name, self.needs = ROUNDS[number - 1], ROUNDS[: number - 1]

    def _parts(self, inputs: Inputs, shared: Path) -> list[dict[str, Any]]:
        """The seeds are not in the plan, which would grow with them: each unit reads its own from the manifests."""
        from rag_hpc.sources.crawl.site import check_user_agent, deal

        found = frontier(inputs, self.config)
        check_user_agent(self.config.user_agent, found.seeds, self.config.resolve)
        left = self.config.max_pages - sum(found.num_pages.values())
        if self.config.max_pages and left <= 0:
            return []
        parts = deal(found.seeds, self.config, max(left, 0), found.num_pages)
        return [{**part, "hosts": [{**item, "seeds": len(item["seeds"])} for item in part["hosts"]]} for part in parts]

    def _part(self, unit: Unit, ctx: Context) -> dict[str, Any]:
        hosts = {item["host"]: item for item in unit.inputs["hosts"]}
        found = frontier(ctx.inputs, self.config, hosts.keys())
        return {
            **unit.inputs,
            "hosts": [
                {**item, "seeds": list(found.seeds[host].items()), "done": found.done.get(host, ())}
                for host, item in hosts.items()
            ],
        }


def _must_stop(out: Path, ctx: Context) -> bool:
    """Return whether to stop. Raises Interrupted when the draft is gone: a later submission owns the hosts now."""
    if not out.exists():
        raise Interrupted(f"{out.name}: its draft was removed, a later submission took over")
    return ctx.stop_requested()
