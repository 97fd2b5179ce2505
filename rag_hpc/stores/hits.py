"""The table that hits are kept in, whichever method or stage ranked them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_hpc.algo.rank.topk import Hits
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


def ranked_table(
    query_ids: Sequence[str], by_method: Mapping[str, Hits], names: Mapping[str, pa.Array[Any]]
) -> pa.Table:
    """Return the hits of queries, method by method, as the table that hits are kept in.

    by_method: scores and ordinals [Q, K] each, best first, -1 where there is none. names: chunk_id and doc_id by
    ordinal.
    """
    import numpy as np
    import pyarrow as pa

    queries, parts = pa.array(query_ids, pa.string()), [hits_table([])]
    for method, (scores_QK, ids_QK) in by_method.items():
        rows_P, places_P = np.nonzero(ids_QK >= 0)
        ordinals_P = ids_QK[rows_P, places_P]
        columns = {
            "query_id": queries.take(rows_P),
            "method": pa.repeat(method, len(rows_P)),
            "rank": pa.array(places_P + 1, pa.int32()),
            "ordinal": pa.array(ordinals_P, pa.int64()),
            **{name: names[name].take(ordinals_P).cast(pa.string()) for name in ("chunk_id", "doc_id")},
            "score": pa.array(scores_QK[rows_P, places_P], pa.float32()),
        }
        parts.append(pa.table({name: columns[name] for name in COLUMNS}, schema=parts[0].schema))
    return pa.concat_tables(parts)
