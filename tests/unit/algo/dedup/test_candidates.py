from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.dedup.candidates import Buckets
from rag_hpc.algo.dedup.components import Partition
from rag_hpc.core.comm import SerialComm

ROWS = st.sets(st.tuples(st.integers(0, 4), st.integers(-10, 50)), max_size=60)


def pairs_of(rows: list[tuple[int, int]], window: int, cuts: list[int]) -> list[tuple[int, int]]:
    keys, docs = (np.array([row[i] for row in rows], dtype=t) for i, t in ((0, np.uint64), (1, np.int64)))
    buckets = Buckets(window)
    blocks = zip(np.split(keys, cuts), np.split(docs, cuts), strict=True)
    found = np.concatenate([buckets.pairs(*block) for block in blocks])
    return [(int(a), int(b)) for a, b in found]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 5), st.lists(st.integers(0, 60), max_size=8))
def test_pairs_connect_each_bucket_and_nothing_else_wherever_blocks_end(
    given_rows: set[tuple[int, int]], window: int, cuts: list[int]
) -> None:
    rows = sorted(given_rows)
    found = pairs_of(rows, window, sorted(cuts))
    buckets = {key: sorted(doc for k, doc in rows if k == key) for key, _ in rows}
    allowed = {pair for bucket in buckets.values() for pair in itertools.combinations(bucket, 2)}
    assert set(found) <= allowed
    assert set(found) == set(pairs_of(rows, window, []))  # blocks change nothing
    assert {p for b in buckets.values() for p in itertools.combinations(b, 2) if len(b) <= window + 1} <= set(found)
    labels = Partition(np.array([-10, 51]), SerialComm()).components([np.array(found, dtype=np.int64).reshape(-1, 2)])
    assert all(len({int(labels[doc + 10]) for doc in bucket}) == 1 for bucket in buckets.values())


def test_large_bucket_gives_linear_pairs() -> None:
    rows = [(7, doc) for doc in range(20_000)]
    assert len(pairs_of(rows, 4, [5_000, 5_001, 12_000])) < 5 * 20_000


def test_no_rows_give_no_pairs() -> None:
    assert pairs_of([], 4, [0, 0]) == []
