"""Fusion follows the formula, breaks ties by id and does not care which ranking comes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_hpc.algo.fusion import rrf
from rag_hpc.errors import ConfigError

LISTS = st.lists(st.lists(st.integers(0, 12), unique=True, max_size=12), min_size=1, max_size=5)


def test_scores_are_the_sum_of_reciprocal_ranks() -> None:
    ids, scores = rrf([np.array([7, 3]), np.array([3, 9])], 10)
    assert ids.tolist() == [3, 7, 9]
    assert scores.tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_ties_break_by_id() -> None:
    assert rrf([np.array([9, 2]), np.array([2, 9])], 10)[0].tolist() == [2, 9]


def test_missing_hits_and_repeats_do_not_count() -> None:
    ids, scores = rrf([np.array([4, 4, -1, 5])], 10)
    assert ids.tolist() == [4, 5]
    assert scores.tolist() == [1 / 61, 1 / 64]


def test_only_depth_ranks_are_read_and_returned() -> None:
    assert rrf([np.array([1, 2, 3]), np.array([4, 5, 3])], 2)[0].tolist() == [1, 4]


def test_nothing_fuses_to_nothing() -> None:
    ids, scores = rrf([np.array([], dtype=np.int64)], 3)
    assert ids.dtype == np.int64 and len(ids) == len(scores) == 0


@given(LISTS)
def test_order_of_the_rankings_does_not_change_a_bit(lists: list[list[int]]) -> None:
    arrays = [np.array(one, dtype=np.int64) for one in lists]
    first, second = rrf(arrays, 20), rrf(arrays[::-1], 20)
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()


def test_useless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="k=-1"):
        rrf([], 5, k=-1)
    with pytest.raises(ConfigError, match="depth=0"):
        rrf([], 0)
