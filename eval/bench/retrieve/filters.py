"""How much of what a filter lets through a vector index finds, by the share that it lets through."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.eval.bench.rows import Row
from rag_hpc.search.ann import Ann
from rag_hpc.search.recall import of_queries, share_found
from rag_hpc.stores.questions import read_question_vectors
from rag_hpc.stores.shards import effort_of
from rag_hpc.stores.vectors import VectorStore

SHARES = (0.01, 0.1, 0.5)
_K = 10


def rows(inputs: Mapping[str, Manifest], bar: float, about: str) -> list[Row]:
    """Return recall@10 of the questions against exact search of what is let through, drawn at random.

    By the index alone: a search of ours takes exact search up to 50,000 passages.
    """
    store = VectorStore(inputs["encode"])
    rows_ND = store.rows(0, len(store))
    queries_QD = read_question_vectors(inputs["retrieve.queries"]).astype(np.float32)
    index, found = Ann(inputs["vectors.build"], rows_ND, 0, SerialComm(), effort_of(inputs["vectors.check"])), []
    for share in SHARES:
        allowed_N = np.random.default_rng(0).random(len(store)) < share
        scores = index.search(queries_QD, _K, allowed_N)[0]
        truth = exact_topk(queries_QD, rows_ND[allowed_N], _K)[0]
        recall = of_queries(f"recall@{_K}", share_found(scores, truth, _K))
        found.append(
            Row(
                name=f"retrieve.filter.{100 * share:g}%",
                ours=recall.mean,
                unit=recall.name,
                ratio=recall.mean,
                interval=(recall.low, recall.high),
                bar=bar,
                note=f"{recall.num} questions, {int(allowed_N.sum()):,} of {about}",
            )
        )
    return found
