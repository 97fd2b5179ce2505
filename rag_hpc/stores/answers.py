"""Answers with their checked citations: a row a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.tables import TableWriter, rows_of

ANSWERS = "answers.parquet"
_NAMES = ("query_id", "question", "answer", "short", "found", "gold", "citations", "chunk_ids", "doc_ids")
COLUMNS = dict.fromkeys(_NAMES, "string") | {"found": "bool"}


def open_answers(unit_dir: Path) -> TableWriter:
    """Return a writer of the unit's answers."""
    return TableWriter(unit_dir / ANSWERS, COLUMNS)


def read_answers(generated: Manifest) -> list[dict[str, Any]]:
    """Return the answers in the order of the questions; gold, citations, chunk_ids and doc_ids are JSON text."""
    return rows_of(generated, ANSWERS)
