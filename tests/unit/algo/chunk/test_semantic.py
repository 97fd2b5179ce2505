from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.algo.chunk.semantic import topic_starts, windows

rng = np.random.default_rng(3)
TOPICS = rng.normal(size=(4, 16))


def vectors(*topics: int) -> np.ndarray:
    return (TOPICS[list(topics)] + rng.normal(scale=0.05, size=(len(topics), 16))).astype(np.float32)


def test_windows_are_runs_of_sentences() -> None:
    text, spans = "A. B. C. D.", [(0, 2), (3, 5), (6, 8), (9, 11)]
    assert windows(text, spans, 2) == ["A. B.", "B. C.", "C. D."]
    assert windows(text, spans, 9) == [text]
    assert windows("", [], 2) == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_topics_begin_where_vectors_part(size: int) -> None:
    order = [0] * 8 + [1] * 7 + [2] * 9
    sentences = vectors(*order)
    blurred = np.stack([sentences[at : at + size].mean(axis=0) for at in range(len(order) - size + 1)])
    assert topic_starts(blurred, size, 94).tolist() == [8, 15]


def test_one_topic_has_no_break() -> None:
    assert topic_starts(np.repeat(vectors(0), 10, axis=0), 2, 50).tolist() == []
    assert topic_starts(vectors(0, 1), 3, 50).tolist() == []


def test_last_bits_and_lengths_move_nothing() -> None:
    found = vectors(*[0] * 6, *[3] * 6)
    noisy = found * np.float32(3.0) * (1 + 1e-6 * rng.normal(size=found.shape)).astype(np.float32)
    assert topic_starts(found, 1, 80).tolist() == topic_starts(noisy, 1, 80).tolist() != []


def test_higher_percentile_leaves_fewer_breaks() -> None:
    found = vectors(*[n % 4 for n in range(40)])
    assert set(topic_starts(found, 1, 95)) <= set(topic_starts(found, 1, 20))
