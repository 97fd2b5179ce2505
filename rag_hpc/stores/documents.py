"""The documents of a unit: what clean wrote, and what dedup has left of it."""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.tables import TableWriter, read_column, read_table

DOCUMENTS = "documents.parquet"
PAGE_CHARS = "page_chars"  # in meta, of a file with pages: how many characters each has that are no space
COLUMNS = dict.fromkeys(("doc_id", "url", "title", "text", "lang", "meta"), "string")


def open_documents(unit_dir: Path) -> TableWriter:
    """Return a writer of the unit's documents."""
    return TableWriter(unit_dir / DOCUMENTS, COLUMNS)


def document_batches(path: Path, columns: Collection[str], num_rows: int) -> Iterator[Any]:
    """Yield some columns of a file of documents as Arrow batches of at most `num_rows`, at least one batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as documents:
        if documents.metadata.num_rows == 0:
            yield pa.record_batch([pa.array([], pa.string())] * len(columns), names=list(columns))
        yield from documents.iter_batches(num_rows, columns=list(columns), use_threads=False)


def find_document(documents: Manifest, name: str) -> dict[str, Any] | None:
    """Return the document with that id, or address, as a row; None when there is none."""
    for path in documents.files(DOCUMENTS):
        for column in ("doc_id", "url"):
            names = read_column(path, column)
            if name in names:
                row: dict[str, Any] = read_table(path).slice(names.index(name), 1).to_pylist()[0]
                return row
    return None


def page_number(document: dict[str, Any], start: int) -> int | None:
    """Return the page, from 1, of the document's file where a place in its text lies; None where it has no pages."""
    chars = json.loads(document["meta"] or "{}").get(PAGE_CHARS)
    if not chars:
        return None
    before = len("".join(document["text"][:start].split()))
    return min(bisect.bisect_right(list(accumulate(chars)), before), len(chars) - 1) + 1
