"""From hits to the passages that a reranker or generator reads: the last stage's ranking, with texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.core.stage import Inputs
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import ANN, HITS, RERANKED, handed_on
from rag_hpc.stores.questions import read_questions
from rag_hpc.stores.tables import read_column, read_table

_COLUMNS = [field.name for field in fields(Passage) if field.name != "whole"]


@dataclass(frozen=True)
class Asked:
    """A question with the ordinals of its passages, best first."""

    query_id: str
    text: str
    answers: str  # JSON
    ordinals: list[int]


def ranked(inputs: Inputs, position: int, k: int) -> list[Asked]:
    """Return the questions of one block in the order of the last ranking stage, k hits each.

    position: of the block among retrieve's units. Blocks that rerank has quarantined keep retrieve's order.
    """
    reranked = "rerank" in inputs and position in {unit["index"] for unit in inputs["rerank"].units}
    retrieved = inputs["retrieve.search"]
    index = position if reranked else retrieved.units[position]["index"]
    chosen = handed_on(inputs)
    path = inputs["rerank"].file(index, HITS) if reranked else retrieved.file(index, chosen.table)
    method = RERANKED if reranked else chosen.value
    # a question may be without a hit of the method (BM25 of a question whose words no passage has), not of all methods
    searched = read_column(retrieved.file(retrieved.units[position]["index"], HITS), "query_id")
    by_query: dict[str, list[tuple[int, int]]] = {query_id: [] for query_id in searched}
    for row in read_table(path, ["query_id", "method", "rank", "ordinal"]).to_pylist():
        if row["method"] == method:
            by_query[row["query_id"]].append((row["rank"], row["ordinal"]))
    return [
        Asked(q["query_id"], q["text"], q["answers"], [o for _, o in sorted(by_query[q["query_id"]])[:k]])
        for q in read_questions(inputs["retrieve.queries"])
        if q["query_id"] in by_query
    ]


def texts_of(inputs: Inputs, position: int, chunks: ChunkStore) -> dict[str, str]:
    """Return chunk id -> text of all hits of one block of questions; position: of the block among retrieve's units."""
    retrieved = inputs["retrieve.search"]
    index = retrieved.units[position]["index"]
    ordinals: dict[str, int] = {}
    for table in [HITS, *([ANN] if index in retrieved.holders(ANN) else [])]:
        for row in read_table(retrieved.file(index, table), ["chunk_id", "ordinal"]).to_pylist():
            ordinals[row["chunk_id"]] = row["ordinal"]
    texts = chunks.rows(list(ordinals.values()), ["text"])
    return {chunk_id: row["text"] for chunk_id, row in zip(ordinals, texts, strict=True)}


def read_passages(chunks: ChunkStore, ordinals: Sequence[int]) -> list[Passage]:
    """Return the chunks with these ordinals as passages, in the same order."""
    return [Passage(**row) for row in chunks.rows(ordinals, _COLUMNS)]
