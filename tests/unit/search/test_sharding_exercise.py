"""Sharding by hand, as a course sets it: a third shard keeps the top ten, and half of each shard finds half of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.topk import Hits, exact_topk, merge_topk
from rag_hpc.errors import MissingDependency
from rag_hpc.search import jvm, lucene
from rag_hpc.search.shards import Shards

K, QUERIES, DOCUMENTS = 10, 20, 1200
RNG = np.random.default_rng(11)
WORDS = np.array([f"w{n}" for n in range(200)])
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(5, 60))) for _ in range(DOCUMENTS)]
ASKED = [list(RNG.choice(WORDS, 4, replace=False)) for _ in range(QUERIES)]
VECTORS = RNG.standard_normal((DOCUMENTS, 32)).astype(np.float32)
QUESTIONS = RNG.standard_normal((QUERIES, 32)).astype(np.float32)
TWO, THREE = ([0, 500, DOCUMENTS], [0, 300, 500, DOCUMENTS])


def halves(edges: Sequence[int]) -> list[np.ndarray]:
    """A random half of each shard."""
    rng = np.random.default_rng(4)
    return [
        np.sort(rng.choice(np.arange(low, high), (high - low) // 2, replace=False))
        for low, high in itertools.pairwise(edges)
    ]


def spans(edges: Sequence[int]) -> list[np.ndarray]:
    return [np.arange(low, high) for low, high in itertools.pairwise(edges)]


def words_found(parts: list[np.ndarray], folder: Path, whole: bm25.Collection | None = None) -> Hits:
    """Hits of shards that hold these documents, by the statistics of all of them, or of `whole`."""
    for number, docs in enumerate(parts):
        lucene.build_index(((str(n), TEXTS[n]) for n in docs), folder / str(number))
    opened = Shards([folder / str(number) for number in range(len(parts))])
    whole = whole or opened.collection({word for row in ASKED for word in row})
    scores, found = opened.top([bm25.make_query(row, whole) for row in ASKED], K)
    opened.close()
    return scores, np.where(found >= 0, np.concatenate(parts)[found], -1)


def vectors_found(parts: list[np.ndarray]) -> Hits:
    found = [exact_topk(QUESTIONS, VECTORS[docs], K) for docs in parts]
    return merge_topk([(scores, docs[ids]) for docs, (scores, ids) in zip(parts, found, strict=True)], K)


def check_half(all_of: Hits, half_of: Hits, kept: np.ndarray) -> None:
    """What half of the documents find is what the whole finds of that half, then others; so its recall is the share of
    the top ten that was kept: a half, give or take what 200 draws may differ by (four standard deviations)."""
    recall = []
    for scores, docs, half_scores, half in zip(*all_of, *half_of, strict=True):
        still = np.isin(docs, kept)
        assert half[: still.sum()].tolist() == docs[still].tolist()
        assert half_scores[: still.sum()].tobytes() == scores[still].tobytes()
        assert len(set(half.tolist())) == K and np.isin(half, kept).all()
        recall.append(len(set(docs) & set(half)) / K)
    assert abs(float(np.mean(recall)) - 0.5) < 4 * 0.5 / (K * QUERIES) ** 0.5


def test_lucene_shards(tmp_path: Path) -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))
    two, three = words_found(spans(TWO), tmp_path / "two"), words_found(spans(THREE), tmp_path / "three")
    assert two[0].tobytes() == three[0].tobytes() and two[1].tobytes() == three[1].tobytes()
    opened = Shards([tmp_path / "three" / str(number) for number in range(3)])
    whole = opened.collection({word for row in ASKED for word in row})
    opened.close()
    parts = halves(THREE)
    check_half(three, words_found(parts, tmp_path / "half", whole), np.concatenate(parts))


def test_vector_shards() -> None:
    two, three = vectors_found(spans(TWO)), vectors_found(spans(THREE))
    assert two[0].tobytes() == three[0].tobytes() and two[1].tobytes() == three[1].tobytes()
    parts = halves(THREE)
    check_half(three, vectors_found(parts), np.concatenate(parts))
