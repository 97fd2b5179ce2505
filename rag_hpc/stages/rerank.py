"""rerank: a cross-encoder puts the fused list's head in a new order. Off unless the pipeline names it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.stage import Context, Counts, Inputs, Launch, Stage, Unit
from rag_hpc.core.tables import write_table
from rag_hpc.errors import ConfigError
from rag_hpc.hits import HITS, hits_table
from rag_hpc.passages import Asked, ranked


@dataclass(kw_only=True)
class RerankConfig:
    """Settings of reranking."""

    model: str = ""  # folder or hub id of a cross-encoder with one output; needed when the stage runs
    depth: int = 20  # hits of the fused list that are scored
    threads: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1 or self.threads < 1:
            raise ConfigError("stage.rerank: depth >= 1 and threads >= 1 are needed; try depth=20 threads=1")


class Rerank(Stage):
    """Scores (question, passage) pairs."""

    Config: ClassVar[type] = RerankConfig
    name = "rerank"
    version = 1
    launch = Launch.torchrun
    needs = ("chunk", "retrieve.queries", "retrieve.search")
    counts_from = "retrieve.search"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        if not self.config.model:
            raise ConfigError("rerank: no model; set stage.rerank.model=FOLDER, or leave rerank out of pipeline.stages")
        return [Unit(i, {"position": i}) for i in range(len(inputs["retrieve.search"].units))]

    def setup(self, ctx: Context) -> None:
        """Load the cross-encoder."""
        from rag_hpc.encoder import Reranker

        self._model = Reranker(self.config.model, threads=self.config.threads)
        self._chunks = ChunkStore(ctx.inputs["chunk"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write hits.parquet with method "reranked", ties by (score, ordinal)."""
        inputs = {name: found for name, found in ctx.inputs.items() if name != "rerank"}
        asked = ranked(inputs, unit.inputs["position"], self.config.depth)
        begun = time.monotonic()
        rows = [row for question in asked for row in self._rerank(question)]
        write_table(out / HITS, hits_table(rows))
        return Counts(items_in=len(asked), items_out=len(asked), timings={"rerank": time.monotonic() - begun})

    def _rerank(self, question: Asked) -> list[tuple[Any, ...]]:
        chunks = self._chunks.rows(question.ordinals, ["chunk_id", "doc_id", "text"])
        # where both exceed the model's window the passage loses its end; the question is read whole
        scores = self._model.score([(question.text, chunk["text"]) for chunk in chunks], allow_truncate=True)
        order = sorted(range(len(chunks)), key=lambda i: (-float(scores[i]), question.ordinals[i]))
        return [(question.query_id, "reranked", rank, question.ordinals[i], chunks[i]["chunk_id"], chunks[i]["doc_id"],
                 float(scores[i])) for rank, i in enumerate(order, 1)]
