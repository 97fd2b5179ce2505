"""The questions of a run and their vectors, written once for all stages that ask them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.text.words import num_words
from rag_hpc.algo.types import Array
from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.tables import rows_of, table_of, write_table
from rag_hpc.stores.vectors import VECTORS, write_vectors

QUERIES = "queries.parquet"
FOUND_AGAIN = "found_again"  # a count of their stage: how well the encoder knows the corpus (search/trial.py)
COLUMNS = {
    "query_id": "string",
    "text": "string",
    "answers": "string",
    "relevant": "string",
    "held_out": "bool",
    "stand_in": "bool",  # a title that stands in for a question
    "absent": "string",  # JSON: relevant ids that the corpus lacks, or whose documents were dropped, with the reason
}
Question = dict[str, Any]  # {"id", "text", "answers": [...], "relevant": {doc_id: grade}, "held_out", "stand_in": bool}


def write_questions(
    unit_dir: Path, questions: Sequence[Question], vectors_QD: Array, absent: Mapping[str, str] | None = None
) -> None:
    """Write the questions and, row for row, their vectors. `absent`: relevant ids without a document, and why."""

    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)

    rows = [
        (
            q["id"],
            q["text"],
            text(q.get("answers", [])),
            text(q.get("relevant", {})),
            bool(q.get("held_out", False)),
            bool(q.get("stand_in", False)),
            text({doc_id: absent[doc_id] for doc_id in q.get("relevant", {}) if doc_id in absent} if absent else {}),
        )
        for q in questions
    ]
    write_table(unit_dir / QUERIES, table_of(rows, COLUMNS))
    write_vectors(unit_dir, vectors_QD)


def read_questions(queries: Manifest) -> list[dict[str, Any]]:
    """Return the questions in order, as rows; answers and relevant documents are JSON text."""
    return rows_of(queries, QUERIES)


def read_question_vectors(queries: Manifest) -> Array:
    """Return the vectors of the questions, [Q, D] float16."""
    vectors_QD: Array = np.load(queries.files(VECTORS)[0], allow_pickle=False)
    return vectors_QD


def known_items(documents: Iterable[tuple[str, str]], limit: int) -> list[Question]:
    """Return at most `limit` questions from (doc_id, title) pairs, chosen by hash, ids in that order.

    Titles that several documents share are left out: they do not tell their document from the others.
    """
    by_title: dict[str, list[str]] = {}
    for doc_id, title in documents:
        if num_words(title) >= 2:
            by_title.setdefault(title.strip(), []).append(doc_id)
    single = [(title, ids[0]) for title, ids in by_title.items() if len(ids) == 1]
    chosen = sorted(single, key=lambda pair: hashlib.sha256(pair[1].encode()).digest())[:limit]
    return [
        {"id": f"known-{number:04d}", "text": title, "answers": [], "relevant": {doc_id: 1}, "stand_in": True}
        for number, (title, doc_id) in enumerate(chosen)
    ]
