"""judge: what another model thinks of the answers, by RAGAS, and of samples that people have labelled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.answer.cite import without_citations
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import InputError, Interrupted
from rag_hpc.generators.judge import (
    GROUP,
    RELEVANCY,
    JudgeConfig,
    Judged,
    RagasJudge,
    Sample,
)
from rag_hpc.generators.labels import labelled
from rag_hpc.generators.pool import in_order
from rag_hpc.generators.replay import Journal
from rag_hpc.models.endpoint import Unreachable
from rag_hpc.sources.files.jsonl import iter_records
from rag_hpc.stores.answers import ANSWERS
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.judged import LABELLED, NOT_ASKED, SCORES, write_scores
from rag_hpc.stores.passages import texts_of
from rag_hpc.stores.tables import read_table

LABELS_PER_UNIT = 32
Labels = dict[str, int]


class Judge(Stage):
    """Scores every answer; a sample that the judge could not score keeps its row, and the reason."""

    Config: ClassVar[type] = JudgeConfig
    name = "judge"
    version = 1
    needs = ("chunk", "retrieve.search", "generate")

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return a unit for each of generate's, and after them units of labelled samples."""
        self.config.require()
        units: list[dict[str, Any]] = [{"position": n} for n in range(len(inputs["generate"].units))]
        if self.config.labels:
            path = Path(self.config.labels)
            sha256, num = hash_file(path), len(self._labelled())
            units += [{"labels": at, "sha256": sha256} for at in range(0, num, LABELS_PER_UNIT)]
        return [Unit(index, given) for index, given in enumerate(units)]

    def setup(self, ctx: Context) -> None:
        """Load what turns texts into vectors, where a metric compares them."""
        self._embed: Callable[[Sequence[str]], Any] = lambda texts: []
        if RELEVANCY in self.config.metrics:
            from rag_hpc.models.encoder import Encoder

            encoder = Encoder(self.config.encoder, threads=1)
            self._embed = lambda texts: encoder.encode(list(texts), allow_truncate=True)

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write scores.jsonl, or labelled.jsonl. Raises Interrupted where the judge is down: what it said is kept."""
        samples, labels = self._samples(unit, ctx)
        done: list[str] = []
        with Journal(ctx.carry) as journal:
            judge = RagasJudge(self.config, journal, self._embed, ctx.check_stop)

            def ask(sample: Sample) -> Judged:
                judged = judge.judge(sample)
                done.append(sample.sample_id)
                return judged

            try:
                found = in_order(samples, ask, self.config.concurrency, ctx.check_stop)
            except Unreachable as error:
                said = (
                    f"judge: {len(done)} of {len(samples)} samples of {unit.name} are judged, and are not asked again; "
                    f"{error}; or judge with another: {GROUP}.base_url"
                )
                ctx.log.error("%s", said)  # the command that waits shows errors; a stop alone is none
                raise Interrupted(said) from error
        lines = [{"query_id": one.sample_id, "scores": one.scores, "reasons": one.reasons} for one in found]
        if labels:
            lines = [{**line, "labels": own} for line, own in zip(lines, labels, strict=True)]
        write_scores(out, lines, LABELLED if labels else SCORES)
        timings = {"replayed": float(journal.num_replayed)} if journal.num_replayed else {}
        return Counts(items_in=len(samples), items_out=len(found), extra=_figures(found), timings=timings)

    def _samples(self, unit: Unit, ctx: Context) -> tuple[list[Sample], list[Labels]]:
        if "labels" in unit.inputs:
            if hash_file(Path(self.config.labels)) != unit.inputs["sha256"]:
                raise InputError(f"{GROUP}.labels: {self.config.labels} changed since the plan was made; run again")
            at = unit.inputs["labels"]
            chosen = self._labelled()[at : at + LABELS_PER_UNIT]
            return [sample for sample, _ in chosen], [labels for _, labels in chosen]
        generated = ctx.inputs["generate"]
        index = generated.units[unit.inputs["position"]]["index"]
        rows = read_table(generated.file(index, ANSWERS)).to_pylist()
        texts = texts_of(ctx.inputs, index, ChunkStore(ctx.inputs["chunk"]))
        return [_sample(row, texts) for row in rows], []

    def _labelled(self) -> list[tuple[Sample, Labels]]:
        return labelled(list(iter_records(Path(self.config.labels))))


def _sample(row: dict[str, Any], texts: dict[str, str]) -> Sample:
    return Sample(
        sample_id=row["query_id"],
        question=row["question"],
        answer=without_citations(row["answer"]) if row["found"] else "",
        contexts=[texts[chunk_id] for chunk_id in json.loads(row["chunk_ids"])],
        reference=next((gold for gold in json.loads(row["gold"]) if gold.strip()), ""),
    )


def _figures(found: Sequence[Judged]) -> dict[str, float]:
    """Return the judge's tokens, and how many scores are undetermined and why, by metric."""
    figures: Counter[str] = Counter()
    for one in found:
        figures.update(one.counts)
        for metric, reason in one.reasons.items():
            figures[f"{'not_asked' if reason in NOT_ASKED else 'undetermined'}_{metric}"] += 1
    return {name: float(number) for name, number in sorted(figures.items())}
