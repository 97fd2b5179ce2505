"""Chunks by their global ordinal: the row's position in the chunk stage's units, in unit order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.fields import FieldKind
from rag_hpc.stores.tables import TableWriter, read_column, read_columns, read_table

if TYPE_CHECKING:
    import pyarrow as pa

CHUNKS = "chunks.parquet"
_NAMES = ("chunk_id", "doc_id", "url", "title", "lang", "heading", "text")
COLUMNS = dict.fromkeys(_NAMES, "string") | {"start": "int64", "end": "int64", "num_tokens": "int32"}


def open_chunks(unit_dir: Path, fields: Mapping[str, FieldKind] | None = None) -> TableWriter:
    """Return a writer of the unit's chunks. fields: of documents, after COLUMNS."""
    return TableWriter(unit_dir / CHUNKS, columns_with(fields or {}))


def columns_with(fields: Mapping[str, FieldKind]) -> dict[str, str]:
    """Return the columns of chunks that carry these fields of their documents."""
    return COLUMNS | {name: kind.value for name, kind in fields.items()}


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of one unit's chunk file; `first` is the ordinal of row `start`."""

    path: Path
    start: int
    stop: int
    first: int
    position: int  # of the unit among those of the chunk stage, and of the documents it cut


class ChunkStore:
    """Reads chunks of a finished chunk stage; a unit's file is read once and kept."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._indices = manifest.holders(CHUNKS)
        num_rows = [unit["files"][CHUNKS]["rows"] for unit in manifest.units if CHUNKS in unit["files"]]
        self._first = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int64)  # a file may hold no rows
        self._tables: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, ordinals: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return the named columns of the chunks with these ordinals, in the order given."""
        return [self._row(int(ordinal), columns) for ordinal in ordinals]

    @cached_property
    def columns(self) -> dict[str, str]:
        """Return the names of the chunks' columns, with Arrow's names of their types."""
        files = self._manifest.files(CHUNKS)
        return read_columns(files[0]) if files else COLUMNS

    def column(self, name: str) -> list[Any]:
        """Return one column of all chunks, in ordinal order."""
        return [value for path in self._manifest.files(CHUNKS) for value in read_column(path, name)]

    def arrow(self, name: str) -> pa.Array[Any]:
        """Return one column of all chunks as an Arrow array, texts as large_string, in ordinal order."""
        import pyarrow as pa

        kind: Any = "large_string" if self.columns[name] == "string" else self.columns[name]
        wanted = pa.type_for_alias(kind)
        tables = [read_table(path, [name]).column(0).cast(wanted) for path in self._manifest.files(CHUNKS)]
        chunks = [chunk for column in tables for chunk in column.chunks]
        return pa.concat_arrays([pa.array([], wanted), *chunks])

    def num_tokens(self) -> I64:
        """Return the tokens of each chunk without its heading, in ordinal order."""
        parts = [read_table(path, ["num_tokens"]).column(0).to_numpy() for path in self._manifest.files(CHUNKS)]
        lengths_N: I64 = np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)
        return lengths_N

    def ranges(self, start: int, stop: int) -> list[RowRange]:
        """Return the file ranges that hold the ordinals [start, stop)."""
        ranges = []
        for position, index in enumerate(self._indices):
            first, end = int(self._first[position]), int(self._first[position + 1])
            low, high = max(start, first), min(stop, end)
            if low < high:
                path = self._manifest.file(index, CHUNKS)
                ranges.append(RowRange(path, low - first, high - first, low, index))
        return ranges

    def indexed_texts(self, start: int, stop: int) -> list[str]:
        """Return what Lucene and the encoder read of the ordinals [start, stop): the heading, then the text."""
        texts: list[str] = []
        for part in self.ranges(start, stop):
            table = read_table(part.path, ["heading", "text"]).slice(part.start, part.stop - part.start)
            for row in table.to_pylist():
                texts.append(f"{row['heading']}\n{row['text']}" if row["heading"] else row["text"])
        return texts

    def texts(self, start: int, stop: int, column: str = "text") -> list[str]:
        """Return a column of the ordinals [start, stop)."""
        parts = self.ranges(start, stop)
        return [text for part in parts for text in read_column(part.path, column)[part.start : part.stop]]

    def _row(self, ordinal: int, columns: Sequence[str]) -> dict[str, Any]:
        position = int(np.searchsorted(self._first, ordinal, side="right")) - 1
        if position not in self._tables:
            self._tables[position] = read_table(self._manifest.file(self._indices[position], CHUNKS))
        table, row = self._tables[position], ordinal - int(self._first[position])
        return {name: table.column(name)[row].as_py() for name in columns}


def split_evenly(num_rows: int, num_parts: int) -> list[tuple[int, int]]:
    """Return `num_parts` contiguous ranges over `num_rows` rows, sizes differing by at most one, none empty."""
    num_parts = min(num_parts, num_rows)
    edges = [num_rows * part // num_parts for part in range(num_parts + 1)] if num_parts > 0 else []
    return list(pairwise(edges))
