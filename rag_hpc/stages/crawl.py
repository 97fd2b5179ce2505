"""crawl: from a source to pages, one unit per part of the source (a host, a file, a range of records)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import Rejects, TableWriter
from rag_hpc.errors import InputError
from rag_hpc.sources.base import CorpusConfig, Page, ReadContext
from rag_hpc.sources.registry import get_source

PAGES = "pages.parquet"
COLUMNS = {"doc_id": "string", "url": "string", "title": "string", "content_type": "string", "charset": "string",
           "body": "binary", "meta": "string"}


class Crawl(Stage):
    """Fetches or reads the source's pages."""

    Config: ClassVar[type] = CorpusConfig
    name = "crawl"
    version = 1

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per part of the source."""
        parts = get_source(self.config.source).split(self.config, shared)
        if not parts:
            raise InputError(f"corpus {self.config.name}: empty; nothing readable at path={self.config.path} "
                             f"seeds={list(self.config.seeds)}")
        return [Unit(index, part) for index, part in enumerate(parts)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write pages.parquet; ids that come twice within a unit are rejected."""
        counts, rejects, seen = Counts(), Rejects(), set()
        reading = ReadContext(shared=ctx.shared, should_stop=ctx.stop_requested, sleep=time.sleep)
        with TableWriter(out / PAGES, COLUMNS) as pages:
            for item in get_source(self.config.source).read(unit.inputs, self.config, reading):
                ctx.check_stop()
                counts.items_in += 1
                if not isinstance(item, Page):
                    rejects.add(item.id, item.reason, item.detail)
                elif item.doc_id in seen:
                    rejects.add(item.doc_id, "duplicate-id", item.url)
                else:
                    seen.add(item.doc_id)
                    pages.add(*_row(item))
        counts.items_out, counts.dropped = pages.num_rows, rejects.write(out)
        return counts


def _row(page: Page) -> tuple[Any, ...]:
    meta = json.dumps(page.meta, sort_keys=True, ensure_ascii=False)
    return page.doc_id, page.url, page.title, page.content_type, page.charset, page.body, meta
