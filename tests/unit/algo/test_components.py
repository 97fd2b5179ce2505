from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.components import components, merge_labels, partial_labels
from rag_hpc.errors import InputError

NUM = 40
PAIRS = st.lists(st.tuples(st.integers(0, NUM - 1), st.integers(0, NUM - 1)), max_size=80)


def as_array(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


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


@settings(max_examples=200, deadline=None)
@given(st.lists(PAIRS, max_size=5))
def test_parts_merge_to_the_labels_of_all_pairs(parts: list[list[tuple[int, int]]]) -> None:
    maps = [partial_labels(as_array(part)) for part in parts]
    expected = brute_force([pair for part in parts for pair in part], NUM)
    assert merge_labels(maps, NUM).tolist() == expected
    assert merge_labels(reversed(maps), NUM).tolist() == expected


def test_partial_labels_name_only_ids_that_occur() -> None:
    ids, labels = partial_labels(as_array([(900, 7), (7, 10**12), (50, 60)]))
    assert ids.tolist() == [7, 50, 60, 900, 10**12]
    assert labels.tolist() == [7, 50, 50, 7, 7]


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
    assert merge_labels([], 2).tolist() == [0, 1]
    assert components(as_array([]), 0).tolist() == []


@pytest.mark.parametrize("pair", [(-1, 0), (0, 3)])
def test_foreign_ids_are_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="there are 3 nodes"):
        components(as_array([pair]), 3)
    with pytest.raises(InputError, match="there are 3 nodes"):
        merge_labels([(np.array([pair[0]]), np.array([pair[1]]))], 3)
