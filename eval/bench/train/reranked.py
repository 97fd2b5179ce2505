"""A small reranker, trained on half of SQuAD's articles, over the ranking that runs hand on, and what it takes.

It learns from the questions of one half, against passages that a run over that half alone ranks high and that do not
answer. It is judged on questions of the other half, over the fused hits of a run over all passages; the ranks beyond k
stay as they are.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rag_hpc.core.record import pressure_cpu
from rag_hpc.eval.bench.rank.collections import READERS, write_beir
from rag_hpc.eval.bench.registry import Options
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.bench.train.runs import lift_row, ran, trained
from rag_hpc.eval.bench.train.train import MEASURES, SEED, halves, measures_of
from rag_hpc.eval.results import Results
from rag_hpc.models.device import Precision, cpu_class, resolve_precision
from rag_hpc.models.encoder import Reranker
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import HITS, Method

DEPTHS = (10, 25, 100)
LATENCY_MS, TIMED_QUESTIONS = 100.0, 7
TRAINING = ("negatives=3", "loss=listwise", "epochs=1", "batch_size=16", "max_tokens=192", "learning_rate=1e-4")


def reranker_rows(data: Path, folder: Path, given: Options) -> Iterator[Row]:
    """Yield the lift over the fused list and the latency, by the number of passages that are read."""
    documents, queries, grades = READERS["squad"](data, "")
    seen, unseen = halves(documents, queries, grades)
    own = {row["document"] for row in seen[1]}
    for name, part, (asked, judged) in (
        ("seen", [row for row in documents if row["_id"] in own], seen),
        ("unseen", documents, unseen),
    ):
        if not (folder / name).is_dir():
            write_beir(folder / name, part, asked, judged)
    before = pressure_cpu() or 0.0
    ran(folder, "seen", folder / "seen")
    settings = [f"train.{setting}" for setting in (*TRAINING, f"data={folder / 'seen'}", "split=test", "run=seen")]
    precision = resolve_precision(Precision.auto, "cpu")
    found = trained(
        folder, "reranker", "reranker", f"workers={given['workers']}", f"train.precision={precision.value}", *settings
    )
    contention = max(before, pressure_cpu() or 0.0)
    hits = _Hits(ran(folder, "unseen", folder / "unseen"))
    right = {row["query"]: row["document"] for row in unseen[1]}
    chosen = random.Random(SEED).sample(
        [row for row in unseen[0] if row["_id"] in hits.ordinals], int(given["questions"])
    )
    note = f"{len(chosen)} questions of other articles; {cpu_class()}; {found.said}"
    rankers = {precision: Reranker(found.model, precision, threads=1)}
    if precision is not Precision.float32:
        rankers[Precision.float32] = Reranker(found.model, Precision.float32, threads=1)
    lists = [hits.ordinals[row["_id"]] for row in chosen]
    scores = [
        _scores(rankers[precision], row["text"], hits.texts(ordinals))
        for row, ordinals in zip(chosen, lists, strict=True)
    ]
    for depth in DEPTHS:
        ranks = [
            (
                hits.rank(right[row["_id"]], ordinals),
                hits.rank(right[row["_id"]], reordered(ordinals, given_scores, depth)),
            )
            for row, ordinals, given_scores in zip(chosen, lists, scores, strict=True)
        ]
        theirs, ours = (measures_of(column) for column in zip(*ranks, strict=True))
        for measure in MEASURES[:2]:
            name = f"train.reranker, {depth} passages"
            is_judged = measure == MEASURES[0]
            yield lift_row(name, measure, ours[measure], theirs[measure], note, contention, bar=is_judged)
        asked_of = [(row["text"], hits.texts(ordinals[:depth])) for row, ordinals in zip(chosen, lists, strict=True)]
        for precision_of, ranker in rankers.items():
            yield _latency(ranker, precision_of, asked_of[: TIMED_QUESTIONS + 1], depth)


def reordered(ordinals: Sequence[int], scores: Sequence[float], depth: int) -> list[int]:
    """Return the first `depth` by score, ties as they stood, and the rest behind them."""
    head = sorted(range(min(depth, len(ordinals))), key=lambda at: -scores[at])
    return [*(ordinals[at] for at in head), *ordinals[depth:]]


class _Hits:
    """The fused ranking of a run, with its passages."""

    def __init__(self, run: Results) -> None:
        self._chunks = ChunkStore(run.manifests["chunk"])
        self._documents = self._chunks.column("doc_id")
        rows = [row for row in run.rows("retrieve.search", HITS) if row["method"] == Method.fused.value]
        self.ordinals: dict[str, list[int]] = {}
        for row in sorted(rows, key=lambda row: int(row["rank"])):
            self.ordinals.setdefault(row["query_id"], []).append(int(row["ordinal"]))

    def texts(self, ordinals: Sequence[int]) -> list[str]:
        """Return what the rerank stage reads of the passages."""
        return [str(row["text"]) for row in self._chunks.rows(list(ordinals), ["text"])]

    def rank(self, document: str, ordinals: Sequence[int]) -> float:
        """Return the document's rank among those of the passages, from 1; inf when it is not there."""
        documents = list(dict.fromkeys(self._documents[ordinal] for ordinal in ordinals))
        return documents.index(document) + 1 if document in documents else float("inf")


def _scores(ranker: Reranker, question: str, texts: Sequence[str]) -> list[float]:
    scores = ranker.score([(question, text) for text in texts], 4096, allow_truncate=True)
    return [float(score) for score in np.asarray(scores)]


def _latency(ranker: Reranker, precision: Precision, asked: Sequence[tuple[str, list[str]]], depth: int) -> Row:
    """Return what a question takes on one thread, after one that is not counted."""
    spent = []
    for question, texts in asked:
        wall, cpu = time.perf_counter(), time.process_time()
        _scores(ranker, question, texts)
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_ms, wall_ms = (1e3 * statistics.median(column) for column in zip(*spent[1:], strict=True))
    return Row(
        name=f"train.reranker.latency, {depth} passages, {precision.value}",
        ours=cpu_ms,
        unit="CPU ms, median",
        bar=LATENCY_MS,
        less_is_better=True,
        contention=pressure_cpu(),
        note=f"{cpu_class()}, one thread; wall {wall_ms:.0f} ms",
    )
