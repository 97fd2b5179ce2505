"""The pages of a crawl unit on disk, as Parquet or as a web archive, written and read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.page import OutputName, Page
from rag_hpc.stores.tables import TableWriter
from rag_hpc.stores.warcfile import WarcPages, read_pages

PAGES = "pages.parquet"
WARC = "pages.warc.gz"
_NAMES = ("doc_id", "url", "title", "content_type", "charset", "body", "meta", "links")
COLUMNS = dict.fromkeys(_NAMES, "string") | {"body": "binary"}
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
        fields = (page.doc_id, page.url, page.title, page.content_type, page.charset, page.body)
        self._table.add(*fields, page.meta_text(), "\n".join(page.links))

    def __enter__(self) -> ParquetPages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._table.__exit__(kind, error, tb)


def open_pages(unit_dir: Path, output: OutputName) -> ParquetPages | WarcPages:
    """Return a writer of the unit's pages."""
    return WarcPages(unit_dir / WARC) if output is OutputName.warc else ParquetPages(unit_dir / PAGES)


def pages_of(crawl: Manifest, index: int) -> Path:
    """Return the file with the pages of a unit."""
    return crawl.file(index, WARC, PAGES)


def iter_pages(path: Path, columns: tuple[str, ...] = tuple(COLUMNS)) -> Iterator[dict[str, Any]]:
    """Yield the pages of a file: doc_id, url, title, content_type, charset, body (bytes), meta (JSON), links.

    links: URLs on other hosts, one a line. `columns`: those that are needed; a web archive gives all of them.
    """
    if path.name == WARC:
        yield from read_pages(path)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as pages:
        for batch in pages.iter_batches(ROWS_AT_ONCE, columns=list(columns), use_threads=False):
            yield from batch.to_pylist()
