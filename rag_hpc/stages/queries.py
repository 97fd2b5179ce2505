"""retrieve.queries: the corpus's questions, or known-item queries where it has none, with their vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from rag_hpc import questions as sets
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import read_table, write_table
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import SourceName

QUERIES, VECTORS = "queries.parquet", "vectors.npy"


@dataclass(kw_only=True)
class QueriesConfig:
    """Where questions come from; YAML fills most fields from the corpus and the encoder."""

    source: SourceName = SourceName.files
    path: str | None = None
    questions: str | None = None
    num_hosts: int = 8
    num_known_items: int = 100  # queries made from titles when the corpus has no questions
    model: str = "minilm"
    prefix: str = ""  # text put before each query, for encoders that were trained with one

    def __post_init__(self) -> None:
        if self.num_known_items < 1:
            raise ConfigError(f"stage.queries.num_known_items={self.num_known_items}: at least 1; try 100")


class Queries(Stage):
    """Writes the questions once, for all stages after it."""

    Config: ClassVar[type] = QueriesConfig
    name = "retrieve.queries"
    version = 1
    needs = ("dedup.drop",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit; it carries the hash of the questions, whose file may change under its name."""
        return [Unit(0, {"questions": hash_value(self._given())})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write queries.parquet (query_id, text, answers, relevant, held_out) and vectors.npy [Q, D] float16."""
        from rag_hpc.encoder import Encoder

        found = self._given()
        if hash_value(found) != unit.inputs["questions"]:
            where = self.config.questions or self.config.path
            raise InputError(f"questions of {where} changed since the plan was made; run again")
        found = found or self._known_items(ctx)
        if not found:
            raise InputError("no questions, and no document has a title of its own, of two words or more, to make one "
                             "from; set corpus.questions")
        counts = Counts(items_in=len(found), items_out=len(found))
        write_table(out / QUERIES, as_table(found))
        encoder = Encoder(self.config.model, threads=1)
        vectors = encoder.encode([self.config.prefix + q["text"] for q in found], allow_truncate=True)
        np.save(out / VECTORS, vectors.astype(np.float16), allow_pickle=False)
        return counts

    def _given(self) -> list[sets.Question]:
        config = self.config
        return sets.load(config.source, config.path, config.questions, config.num_hosts)

    def _known_items(self, ctx: Context) -> list[sets.Question]:
        paths = ctx.inputs["dedup.drop"].files("documents.parquet")
        tables = [read_table(path, ["doc_id", "title"]) for path in paths]
        pairs = [(row["doc_id"], row["title"]) for table in tables for row in table.to_pylist()]
        return sets.known_items(pairs, self.config.num_known_items)


def as_table(found: list[sets.Question]) -> pa.Table:
    """Return the questions as rows; answers and relevant documents are JSON text."""
    def column(key: str, default: Any) -> list[str]:
        return [json.dumps(q.get(key, default), sort_keys=True, ensure_ascii=False) for q in found]

    return pa.table({
        "query_id": pa.array([q["id"] for q in found], pa.string()),
        "text": pa.array([q["text"] for q in found], pa.string()),
        "answers": pa.array(column("answers", []), pa.string()),
        "relevant": pa.array(column("relevant", {}), pa.string()),
        "held_out": pa.array([bool(q.get("held_out", False)) for q in found], pa.bool_()),
    })
