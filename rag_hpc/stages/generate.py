"""generate: an answer with verified citations for each question, from its best passages."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import TableWriter
from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Generator
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.passages import Asked, ranked, read_passages

ANSWERS = "answers.parquet"
COLUMNS = {"query_id": "string", "question": "string", "answer": "string", "short": "string", "found": "bool",
           "gold": "string", "citations": "string", "chunk_ids": "string", "doc_ids": "string"}


@dataclass(kw_only=True)
class GenerateConfig:
    """Settings of generation."""

    k: int = 5  # passages in the prompt
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"stage.generate.k={self.k}: at least 1 passage")


class Generate(Stage):
    """Answers every question and checks each citation against the passage it names."""

    Config: ClassVar[type] = GenerateConfig
    name = "generate"
    version = 1
    needs = ("chunk", "retrieve.queries", "retrieve.search")
    wants = ("rerank",)
    counts_from = "retrieve.search"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        return [Unit(i, {"position": i}) for i in range(len(inputs["retrieve.search"].units))]

    def setup(self, ctx: Context) -> None:
        """Open the generator and the chunks."""
        from rag_hpc.generators.registry import get_generator

        self._generator: Generator = get_generator(self.config.generator)
        self._chunks = ChunkStore(ctx.inputs["chunk"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write answers.parquet, one row a question; citations are JSON with a verdict each."""
        asked = ranked(ctx.inputs, unit.inputs["position"], self.config.k)
        begun = time.monotonic()
        with TableWriter(out / ANSWERS, COLUMNS) as answers:
            for question in asked:
                ctx.check_stop()
                answers.add(*self._answer(question))
        return Counts(items_in=len(asked), items_out=answers.num_rows, timings={"generate": time.monotonic() - begun})

    def _answer(self, question: Asked) -> tuple[Any, ...]:
        from rag_hpc.algo.cite import verify_citations

        passages = read_passages(self._chunks, question.ordinals)
        answer = self._generator.generate(question.text, passages)
        checks = verify_citations(answer.text, passages)
        cited = [{"citation": c.citation, "supported": c.supported, "reason": c.reason} for c in checks]
        return (question.query_id, question.text, answer.text, answer.short, answer.found, question.answers,
                json.dumps(cited), json.dumps([p.chunk_id for p in passages]), json.dumps([p.doc_id for p in passages]))
