"""rerank: a cross-encoder puts the head of the ranking handed on in a new order. Off unless the pipeline names it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError
from rag_hpc.search.rerank import RerankSettings, ordered
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import HITS, RERANKED, handed_on, hits_table
from rag_hpc.stores.passages import Asked, ranked
from rag_hpc.stores.tables import write_table


@dataclass(kw_only=True)
class RerankConfig(RerankSettings):
    """Settings of reranking."""


class Rerank(Stage):
    """Scores (question, passage) pairs."""

    Config: ClassVar[type] = RerankConfig
    name = "rerank"
    version = 3
    launch = Launch.torchrun
    needs = ("chunk", "retrieve.queries", "retrieve.search")
    counts_from = "retrieve.search"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        if not self.config.model:
            raise ConfigError("rerank: no model; set stage.rerank.model=FOLDER, or leave rerank out of pipeline.stages")
        ranking = handed_on(inputs).value  # in the fingerprint: the hits are the same whichever is handed on
        return [Unit(i, {"position": i, "ranking": ranking}) for i in range(len(inputs["retrieve.search"].units))]

    def setup(self, ctx: Context) -> None:
        """Load the cross-encoder."""
        from rag_hpc.models.encoder import Reranker

        config = self.config
        self._model = Reranker(config.model, config.precision, threads=config.threads, device=config.device)
        self._chunks = ChunkStore(ctx.inputs["chunk"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write hits.parquet with method "reranked", ties by (score, ordinal)."""
        inputs = {name: found for name, found in ctx.inputs.items() if name != "rerank"}
        asked = ranked(inputs, unit.inputs["position"], self.config.depth)
        begun = time.monotonic()
        rows = self._rerank(asked)
        write_table(out / HITS, hits_table(rows))
        return Counts(items_in=len(asked), items_out=len(asked), timings={"rerank": time.monotonic() - begun})

    def _rerank(self, asked: list[Asked]) -> list[tuple[Any, ...]]:
        """Return the rows of all the unit's questions, whose pairs are scored together."""
        found = [self._chunks.rows(question.ordinals, ["chunk_id", "doc_id", "text"]) for question in asked]
        pairs = [(q.text, chunk["text"]) for q, chunks in zip(asked, found, strict=True) for chunk in chunks]
        # where both exceed the model's window the passage loses its end; the question is read whole
        scores = self._model.score(pairs, self.config.tokens_per_batch, allow_truncate=True).tolist()
        rows: list[tuple[Any, ...]] = []
        for question, chunks in zip(asked, found, strict=True):
            own, scores = scores[: len(chunks)], scores[len(chunks) :]
            order = ordered(own, question.ordinals)
            hits = [(question.ordinals[i], chunks[i]["chunk_id"], chunks[i]["doc_id"], own[i]) for i in order]
            rows += [(question.query_id, RERANKED, rank, *hit) for rank, hit in enumerate(hits, 1)]
        return rows
