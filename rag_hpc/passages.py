"""From hits to the passages that a reranker or generator reads: the last stage's ranking, with texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.stage import Inputs
from rag_hpc.core.tables import read_table
from rag_hpc.generators.base import Passage
from rag_hpc.hits import HITS


@dataclass(frozen=True)
class Asked:
    """A question with the ordinals of its passages, best first."""

    query_id: str
    text: str
    answers: str  # JSON
    ordinals: list[int]


def ranked(inputs: Inputs, position: int, k: int) -> list[Asked]:
    """Return the questions of one block in the order of the last ranking stage, k hits each.

    position: of the block among retrieve's units. Blocks that rerank has quarantined keep retrieve's fused order.
    """
    reranked = "rerank" in inputs and position in {unit["index"] for unit in inputs["rerank"].units}
    found = inputs["retrieve.search"]
    unit_dir = inputs["rerank"].unit_dir(position) if reranked else found.unit_dir(found.units[position]["index"])
    path = unit_dir / HITS
    method = "reranked" if reranked else "fused"
    by_query: dict[str, list[tuple[int, int]]] = {}
    for row in read_table(path, ["query_id", "method", "rank", "ordinal"]).to_pylist():
        if row["method"] == method:
            by_query.setdefault(row["query_id"], []).append((row["rank"], row["ordinal"]))
    queries = read_table(inputs["retrieve.queries"].files("queries.parquet")[0]).to_pylist()
    return [Asked(q["query_id"], q["text"], q["answers"], [o for _, o in sorted(by_query[q["query_id"]])[:k]])
            for q in queries if q["query_id"] in by_query]


def read_passages(chunks: ChunkStore, ordinals: list[int]) -> list[Passage]:
    """Return the chunks with these ordinals as passages, in the same order."""
    rows: list[dict[str, Any]] = chunks.rows(ordinals, ["chunk_id", "doc_id", "title", "text"])
    return [Passage(**row) for row in rows]
