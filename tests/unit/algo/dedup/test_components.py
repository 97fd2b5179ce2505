from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import stagerun
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.dedup import components as algo
from rag_hpc.algo.dedup.components import Partition
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.errors import InputError

NUM = 40
PAIRS = st.lists(st.tuples(st.integers(0, NUM - 1), st.integers(0, NUM - 1)), max_size=80)


def as_array(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def components(pairs: np.ndarray, num: int) -> np.ndarray:
    """Return the labels that a lone rank finds."""
    return Partition(np.array([0, num]), SerialComm()).components([np.sort(pairs, axis=1)])


def brute_force(pairs: list[tuple[int, int]], num: int) -> list[int]:
    labels = list(range(num))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(labels[a], labels[b])
            changed |= labels[a] != low or labels[b] != low
            labels[a] = labels[b] = low
    return labels


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.randoms())
def test_label_is_the_smallest_member_whatever_the_order(pairs: list[tuple[int, int]], rng: object) -> None:
    expected = brute_force(pairs, NUM)
    assert components(as_array(pairs), NUM).tolist() == expected
    mixed = [pair[::-1] if rng.random() < 0.5 else pair for pair in pairs]  # type: ignore[attr-defined]
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert components(as_array(mixed), NUM).tolist() == expected


class Reference:
    """Union-find as in a textbook, one pair at a time."""

    def __init__(self, low: int, high: int) -> None:
        self.parent = {node: node for node in range(low, high)}

    def find(self, node: int) -> int:
        while self.parent[node] != node:
            node = self.parent[node]
        return node

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.find(a), self.find(b)))
        self.parent[high] = low


def on_ranks(bounds: list[int], pairs: list[tuple[int, int]], batch: int = 7) -> list[int]:
    """Return the labels of all nodes, found by len(bounds) - 1 ranks."""

    def rank(comm: Comm) -> list[int]:
        part = Partition(np.array(bounds), comm)
        own = [sorted(pair) for pair in pairs if part.low <= max(pair) < part.high]
        found = part.components(as_array(own[start : start + batch]) for start in range(0, len(own), batch))
        assert len(found) == part.high - part.low
        return list(map(int, found))

    return [label for labels in stagerun.on_ranks(len(bounds) - 1, rank) for label in labels]


@settings(max_examples=80, deadline=None)
@given(PAIRS, st.lists(st.integers(0, NUM), max_size=4), st.sampled_from([0, 25, NUM]))
def test_any_division_among_ranks_gives_the_labels_of_a_textbook(
    pairs: list[tuple[int, int]], cuts: list[int], older: int
) -> None:
    reference = Reference(-older, NUM - older)
    shifted = [(a - older, b - older) for a, b in pairs]
    for pair in shifted:
        reference.join(*pair)
    bounds = [cut - older for cut in (0, *sorted(cuts), NUM)]  # some ranks may own nothing
    assert on_ranks(bounds, shifted) == [reference.find(node) for node in range(-older, NUM - older)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_chain_through_all_ranks_takes_few_rounds(num_ranks: int) -> None:
    num = 4_000
    bounds = [num * rank // num_ranks for rank in range(num_ranks + 1)]
    rounds = []

    def rank(comm: Comm) -> set[int]:
        part = Partition(np.array(bounds), comm)
        calls = 0
        send = comm.exchange

        def counted(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal calls
            calls += 1
            return send(parts)

        comm.exchange = counted  # type: ignore[method-assign]
        nodes = np.arange(max(1, part.low), part.high)
        labels = part.components([np.stack([np.where(nodes < 7, nodes - 1, nodes - 7), nodes], axis=1)])
        rounds.append(calls)
        return set(labels.tolist())

    assert stagerun.on_ranks(num_ranks, rank) == [{0}] * num_ranks
    assert max(rounds) < 60  # a walk along the chain would take hundreds


def test_pairs_that_reach_another_rank_are_not_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algo, "BATCH_PAIRS", 1000)
    num = 500

    def rank(comm: Comm) -> list[int]:
        part = Partition(np.array([0, num, 2 * num]), comm)
        others = np.arange(num if part.low else 0)  # every node of rank 1 is joined with every one of rank 0
        batches = (
            np.stack([np.append(others, max(node - 1, part.low)), np.full(len(others) + 1, node)], axis=1)
            for node in range(part.low, part.high)
        )
        tracemalloc.reset_peak()
        found = part.components(batches).tolist()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # the pairs are 4 MB
        return found

    tracemalloc.start()
    try:
        assert stagerun.on_ranks(2, rank) == [[0] * num] * 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("step", [1, -1])
def test_long_chain_and_star_are_one_component(step: int) -> None:
    num = 200_000
    order = np.arange(num)[::step]
    assert not components(np.stack([order[:-1], order[1:]], axis=1), num).any()
    star = np.stack([np.full(num - 1, num - 1), np.arange(num - 1)], axis=1)
    assert not components(star, num).any()


def test_shuffled_chain_agrees_with_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    num = 50_000
    pairs = rng.integers(0, num, (num // 2, 2))
    graph = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    _, theirs = sparse.csgraph.connected_components(graph, directed=False)
    smallest = np.full(theirs.max() + 1, num)
    np.minimum.at(smallest, theirs, np.arange(num))
    np.testing.assert_array_equal(components(pairs, num), smallest[theirs])


def test_no_pairs_leave_every_node_alone() -> None:
    assert components(as_array([]), 3).tolist() == [0, 1, 2]
    assert components(as_array([]), 0).tolist() == []


@pytest.mark.parametrize("pair", [(-1, 0), (0, 3)])
def test_foreign_ids_are_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="there are nodes 0 to 2"):
        components(as_array([pair]), 3)
