"""generate: an answer with checked citations for each question, from its best passages."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Encode
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.stores.answers import open_answers
from rag_hpc.stores.hits import handed_on
from rag_hpc.stores.passages import Asked, ranked


@dataclass(kw_only=True)
class GenerateConfig:
    """Settings of generation."""

    k: int = 12  # passages that an answer is made from
    model: str = path_field("minilm", only="folder")  # of the encoder, for generators that read sentences with it
    prefix: str = ""  # text put before each question, as in retrieve.queries
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"stage.generate.k={self.k}: at least 1 passage")


class Generate(Stage):
    """Answers every question and checks each citation against the passage it names."""

    Config: ClassVar[type] = GenerateConfig
    name = "generate"
    version = 2
    needs = ("chunk", "retrieve.queries", "retrieve.search")
    wants = ("rerank",)
    counts_from = "retrieve.search"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        ranking = handed_on(inputs).value  # in the fingerprint: the hits are the same whichever is handed on
        return [Unit(i, {"position": i, "ranking": ranking}) for i in range(len(inputs["retrieve.search"].units))]

    def setup(self, ctx: Context) -> None:
        """Open the generator and the chunks; the encoder is loaded for a generator that reads sentences with it."""
        from rag_hpc.search.answer import Answerer, reading

        def load() -> Encode:
            from rag_hpc.models.encoder import Encoder

            return reading(Encoder(self.config.model, threads=1), self.config.prefix)

        self._answerer = Answerer(ctx.inputs["chunk"], self.config.generator, load, ctx.check_stop)

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write answers.parquet, one row a question; citations are JSON with a verdict each."""
        asked = ranked(ctx.inputs, unit.inputs["position"], self.config.k)
        begun = time.monotonic()
        with open_answers(out) as answers:
            for question in asked:
                ctx.check_stop()
                answers.add(*self._answer(question))
        return Counts(items_in=len(asked), items_out=answers.num_rows, timings={"generate": time.monotonic() - begun})

    def _answer(self, question: Asked) -> tuple[Any, ...]:
        answered = self._answerer.answer(question.text, question.ordinals)
        answer, passages = answered.answer, answered.passages
        cited = [
            {"citation": c.citation, "supported": c.supported, "reason": c.reason, "start": c.start, "end": c.end}
            for c in answered.checks
        ]
        said = (question.query_id, question.text, answer.text, answer.short, answer.found, question.answers)
        ids = ([p.chunk_id for p in passages], [p.doc_id for p in passages])
        return (*said, json.dumps(cited), *map(json.dumps, ids))
