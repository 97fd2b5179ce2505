"""The table that hits are kept in, whichever method or stage ranked them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

HITS, ANN = "hits.parquet", "ann.parquet"


def hits_table(rows: list[tuple[Any, ...]]) -> pa.Table:
    """Return rows (query_id, method, rank, ordinal, chunk_id, doc_id, score) as the table that hits are kept in."""
    names = ("query_id", "method", "rank", "ordinal", "chunk_id", "doc_id", "score")
    kinds = (pa.string(), pa.string(), pa.int32(), pa.int64(), pa.string(), pa.string(), pa.float32())
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({n: pa.array(list(c), t) for n, c, t in zip(names, columns, kinds, strict=True)})
