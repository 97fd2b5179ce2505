"""The table that hits are kept in, whichever method or stage ranked them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.tables import table_of

if TYPE_CHECKING:
    import pyarrow as pa

HITS, ANN = "hits.parquet", "ann.parquet"
RERANKED = "reranked"
SEARCHED_EXACTLY = "searched_exactly"  # in the extra of retrieve.search: questions with exact hits; absent: all
_NAMES = ("query_id", "method", "rank", "ordinal", "chunk_id", "doc_id", "score")
COLUMNS = dict.fromkeys(_NAMES, "string") | {"rank": "int32", "ordinal": "int64", "score": "float32"}


class Method(enum.Enum):
    """The rankings that retrieval makes, one of which is handed on."""

    fused = "fused"  # of bm25 and dense, or ann where not all questions are searched exactly
    dense = "dense"
    bm25 = "bm25"
    ann = "ann"  # dense, by the vector index

    @property
    def table(self) -> str:
        """The file that holds its hits."""
        return ANN if self is Method.ann else HITS


def handed_on(inputs: Mapping[str, Manifest]) -> Method:
    """Return the ranking that retrieval handed on; runs of version 0.1.0 do not say, and handed on the fused one."""
    return Method(inputs["retrieve.search"].config.get("method", "fused"))


def all_exact(retrieved: Manifest) -> bool:
    """Return whether all questions have the hits of exact search, not some that judge the vector index."""
    return SEARCHED_EXACTLY not in retrieved.extra()


def hits_table(rows: list[tuple[Any, ...]]) -> pa.Table:
    """Return rows, their values in the order of the columns, as the table that hits are kept in."""
    return table_of(rows, COLUMNS)
