"""The pages of a crawl unit on disk, as Parquet or as a web archive, written and read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rag_hpc.core.tables import TableWriter
from rag_hpc.sources.base import OutputName, Page
from rag_hpc.sources.warcfile import WarcPages, read_pages

PAGES = "pages.parquet"
WARC = "pages.warc.gz"
COLUMNS = {"doc_id": "string", "url": "string", "title": "string", "content_type": "string", "charset": "string",
           "body": "binary", "meta": "string", "links": "string"}
GROUP_BYTES = 8 << 20  # of a row group: a crawl goes on in the same process, and must not wait long for one
ROWS_AT_ONCE = 64


class ParquetPages:
    """Writes pages to a Parquet file whose bytes depend on them only; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._table = TableWriter(path, COLUMNS, GROUP_BYTES)

    @property
    def num_rows(self) -> int:
        """The pages written so far."""
        return self._table.num_rows

    def add(self, page: Page) -> None:
        """Append one page."""
        self._table.add(page.doc_id, page.url, page.title, page.content_type, page.charset, page.body,
                        page.meta_text(), "\n".join(page.links))

    def __enter__(self) -> ParquetPages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._table.__exit__(kind, error, tb)


def open_pages(unit_dir: Path, output: OutputName) -> ParquetPages | WarcPages:
    """Return a writer of the unit's pages."""
    return WarcPages(unit_dir / WARC) if output is OutputName.warc else ParquetPages(unit_dir / PAGES)


def iter_pages(unit_dir: Path, columns: tuple[str, ...] = tuple(COLUMNS)) -> Iterator[dict[str, Any]]:
    """Yield a unit's pages in their order: doc_id, url, title, content_type, charset, body (bytes), meta (JSON), links.

    links: URLs on other hosts, one a line. `columns`: those that are needed; a web archive gives all of them.
    """
    if (unit_dir / WARC).exists():
        yield from read_pages(unit_dir / WARC)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(unit_dir / PAGES) as pages:
        for batch in pages.iter_batches(ROWS_AT_ONCE, columns=list(columns), use_threads=False):
            yield from batch.to_pylist()
