"""What shards by a field's values spare a filtered search, by the share that the filter lets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from rag_hpc.algo.rank.topk import Hits
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.eval.bench.lexical.lexical import rate_of
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.retrieve.made import REGIONS, indexed, run
from rag_hpc.eval.bench.rows import Row
from rag_hpc.search.ann import Ann
from rag_hpc.search.filters import allowed
from rag_hpc.search.lexical import Lexical
from rag_hpc.search.questions import Questions
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.questions import read_question_vectors, read_questions
from rag_hpc.stores.vectors import VectorStore

_DEPTH = 10
Search = Callable[[np.ndarray], Hits]  # of what is let through


def rows(
    made: Mapping[str, Manifest], settings: Mapping[str, object], folder: Path, pairs: int, about: str
) -> list[Row]:
    """Return rows of questions a second over shards by region, beside even shards of the same passages.

    settings: of the vector index.
    """
    sides = {}
    for name, by in {"ours": "title", "unpartitioned": ""}.items():
        place = folder / name
        place.mkdir()
        inputs = indexed(made, {**settings, "partition_by": by}, place)
        inputs["lexical"] = run("lexical", {"num_shards": settings["num_shards"], "partition_by": by}, inputs, place)
        sides[name] = _searches(inputs, place)
    num = len(read_questions(made["retrieve.queries"]))
    found = []
    for region, share in REGIONS.items():
        mask_N = allowed(ChunkStore(made["chunk"]), f"title == '{region}'")
        for kind in ("bm25", "vectors"):
            calls = {name: partial(side[kind], mask_N) for name, side in sides.items()}
            scores_and_ids = [call() for call in calls.values()]
            same = float((scores_and_ids[0][1] == scores_and_ids[1][1]).all(axis=1).mean())
            timed = take_turns({name: partial(_rate, num, call) for name, call in calls.items()}, pairs)
            ratio, interval = timed.ratio("unpartitioned")
            found.append(
                Row(
                    name=f"retrieve.partition.{kind}.{100 * share:g}%",
                    ours=timed.median("ours"),
                    unit="questions/s",
                    peers={"unpartitioned": timed.median("unpartitioned")},
                    ratio=ratio,
                    interval=interval,
                    contention=timed.contention,
                    note=f"{int(mask_N.sum()):,} let through, equal hits of {same:g} of {num} questions; {about}",
                )
            )
    return found


def _rate(num: int, call: Callable[[], Hits]) -> float:
    return rate_of(num, call).wall


def _searches(inputs: Mapping[str, Manifest], folder: Path) -> dict[str, Search]:
    """Return searches of one process for all questions, top 10; the index's own even where exact search would do."""
    store, comm = VectorStore(inputs["encode"]), SerialComm()
    texts = [row["text"] for row in read_questions(inputs["retrieve.queries"])]
    queries_QD = read_question_vectors(inputs["retrieve.queries"]).astype(np.float32)
    words = Lexical(inputs["lexical"], store, comm, folder / "unpacked")
    questions = Questions(words.shards, comm, {}, 0.9, 0.4, [1.0])
    index = Ann(inputs["vectors.build"], store.rows(0, len(store)), 0, comm)

    def bm25(mask_N: np.ndarray) -> Hits:
        words.restrict(mask_N)
        return words.search(questions.queries(texts), queries_QD, _DEPTH)

    return {"bm25": bm25, "vectors": lambda mask_N: index.search(queries_QD, _DEPTH, mask_N)}
