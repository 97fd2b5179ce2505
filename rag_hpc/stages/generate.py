"""generate: an answer with checked citations for each question, from its best passages."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Stage, plain
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Answer, Encode, Passage
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.folder import model_identity, require_model
from rag_hpc.generators.pool import Draining, in_order
from rag_hpc.generators.prompt import PromptConfig
from rag_hpc.generators.registry import Given
from rag_hpc.generators.replay import Replay
from rag_hpc.stores.answers import open_answers
from rag_hpc.stores.hits import handed_on
from rag_hpc.stores.passages import Asked, ranked

if TYPE_CHECKING:
    from rag_hpc.search.answer import Answered, Answerer


@dataclass(kw_only=True)
class GenerateConfig:
    """Settings of generation."""

    k: int = 12  # passages that an answer is made from
    model: str = path_field("minilm", only="folder")  # of the encoder, for generators that read sentences with it
    prefix: str = ""  # text put before each question, as in retrieve.queries
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)  # of generators with a language model

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"stage.generate.k={self.k}: at least 1 passage")


class Generate(Stage):
    """Answers every question and checks each citation against the passage it names."""

    Config: ClassVar[type] = GenerateConfig
    name = "generate"
    version = 5
    needs = ("chunk", "retrieve.queries", "retrieve.search")
    wants = ("rerank",)
    counts_from = "retrieve.search"
    _answerer: Answerer | None = None

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per block of queries."""
        ranking = handed_on(inputs).value  # in the fingerprint: the hits are the same whichever is handed on
        given: dict[str, Any] = {"ranking": ranking}
        if self.config.generator.name.loads_model:
            given["model"] = model_identity(require_model(self.config.generator.model))
        if self.config.generator.compress.is_on:
            given["compress"] = plain(self.config.generator.compress)
        return [Unit(i, {"position": i, **given}) for i in range(len(inputs["retrieve.search"].units))]

    def setup(self, ctx: Context) -> None:
        """Open the generator and the chunks; the encoder is loaded for a generator that reads sentences with it."""
        from rag_hpc.search.answer import Answerer, reading

        def load() -> Encode:
            from rag_hpc.models.encoder import Encoder

            return reading(Encoder(self.config.model, threads=1), self.config.prefix)

        begun = time.monotonic()
        chunks, generator = ctx.inputs["chunk"], self.config.generator
        stop = Draining(ctx.stop_requested, ctx.check_stop, 0.0)  # a start is broken off at once
        given = Given(load=load, check_stop=stop, prompt=self.config.prompt, scratch=ctx.scratch)
        self._answerer = Answerer(chunks, generator, given)
        stop.drain_s = generator.drain_s
        self._untold = {"start": time.monotonic() - begun}  # a part of the worker's set-up: goes to its first record

    def close(self) -> None:
        """End what the generator has started."""
        if self._answerer is not None:
            self._answerer.close()

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write answers.parquet, one row a question; citations are JSON with a verdict each."""
        from rag_hpc.search.answer import checked

        assert self._answerer is not None
        asked = ranked(ctx.inputs, unit.inputs["position"], self.config.k)
        read = [(question.text, *self._answerer.read(question.text, question.ordinals)) for question in asked]
        generator, begun = self.config.generator, time.monotonic()
        asks_model = generator.name is not GeneratorName.extractive  # the other is quicker than a disk
        with Replay(ctx.carry if asks_model else None, plain(self.config)) as replay:
            said = in_order(read, partial(self._said, replay), generator.at_once, ctx.check_stop)
        extra: Counter[str] = Counter()
        with open_answers(out) as answers:
            for question, (answer, passages, left_out) in zip(asked, said, strict=True):
                answered = checked(answer, passages)
                answers.add(*_row(question, answered))
                extra += Counter({**answered.counts(), **answer.counts, **left_out})
        timings = {"generate": time.monotonic() - begun, **self._untold}
        if replay.num_replayed:
            timings["replayed"] = float(replay.num_replayed)  # a matter of what was killed: no manifest says it
        self._untold = {}
        figures = {name: float(number) for name, number in sorted(extra.items())}
        return Counts(items_in=len(asked), items_out=answers.num_rows, extra=figures, timings=timings)

    def _said(
        self, replay: Replay, asked: tuple[str, list[Passage], dict[str, int]]
    ) -> tuple[Answer, list[Passage], dict[str, int]]:
        """Return the answer to a question from its passages, those that it was shown, and what was left out."""
        assert self._answerer is not None
        question, passages, counts = asked
        tell = partial(self._told, replay)
        shown, left_out = self._answerer.fit(question, passages, counts, tell)
        return tell(question, shown), shown, left_out

    def _told(self, replay: Replay, question: str, passages: Sequence[Passage]) -> Answer:
        """Return what the generator says, what it said to an earlier attempt where there was one."""
        assert self._answerer is not None
        key = replay.key(question, passages)
        return replay.get(key) or replay.put(key, self._answerer.generate(question, passages))


def _row(question: Asked, answered: Answered) -> tuple[Any, ...]:
    answer, passages = answered.answer, answered.passages
    cited = [
        {"citation": c.citation, "supported": c.supported, "reason": c.reason, "start": c.start, "end": c.end}
        for c in answered.checks
    ]
    said = (question.query_id, question.text, answer.text, answer.short, answer.found, question.answers)
    ids = ([p.chunk_id for p in passages], [p.doc_id for p in passages])
    return (*said, json.dumps(cited), *map(json.dumps, ids))
