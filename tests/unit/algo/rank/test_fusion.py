"""Fusion follows its formulas, breaks ties by id and does not care which ranking comes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_hpc.algo.rank.fusion import dense_weight, rrf, weighted, weighted_rows
from rag_hpc.algo.rank.topk import merge_topk, nothing
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


SCORED = st.dictionaries(st.integers(0, 12), st.floats(0, 30, width=32), max_size=12)


def _arrays(scored: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*scored], dtype=np.int64), np.array([*scored.values()], dtype=np.float32)


def test_scores_are_weighted_sums_of_standard_scores() -> None:
    words, meaning = {7: 9.0, 3: 6.0, 5: 3.0}, {3: 0.9, 8: 0.6, 7: 0.3}
    ids, scores = weighted([_arrays(words), _arrays(meaning)], (0.25, 0.75), 3)
    unit = 1 / np.sqrt(2 / 3)  # of three evenly spaced scores: the outer ones, in standard deviations
    assert ids.tolist() == [3, 8, 7]
    assert scores.tolist() == pytest.approx([0.75 * unit, -0.25 * unit, 0.25 * unit - 0.75 * unit], abs=1e-6)


def test_a_short_list_is_of_documents_that_have_a_word_where_the_others_have_none() -> None:
    meaning = {n: 1.0 - n / 100 for n in range(50)}
    assert weighted([_arrays({40: 8.0}), _arrays(meaning)], (0.5, 0.5), 3)[0].tolist() == [40, 0, 1]
    assert weighted([_arrays({}), _arrays(meaning)], (0.5, 0.5), 3)[0].tolist() == [0, 1, 2]


def test_equal_sums_go_by_id_and_nothing_fuses_to_nothing() -> None:
    assert weighted([_arrays({9: 1.0, 2: 1.0, 4: 1.0})], (1.0,), 2)[0].tolist() == [2, 4]
    ids, scores = weighted([_arrays({}), _arrays({})], (0.5, 0.5), 5)
    assert (ids.tolist(), scores.tolist(), ids.dtype, scores.dtype) == ([], [], np.int64, np.float32)


@given(SCORED, SCORED, st.floats(0, 1))
def test_no_order_of_lists_or_hits_changes_a_bit(one: dict[int, float], two: dict[int, float], weight: float) -> None:
    first = weighted([_arrays(one), _arrays(two)], (1 - weight, weight), 20)
    turned = [_arrays(dict(reversed(scored.items()))) for scored in (two, one)]
    second = weighted(turned, (weight, 1 - weight), 20)
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()
    keys = [*zip((-first[1]).tolist(), first[0].tolist(), strict=True)]
    assert keys == sorted(keys)


def test_vectors_weigh_less_where_words_are_found_and_where_the_encoder_is_lost() -> None:
    assert [dense_weight(coverage, None) for coverage in (0.0, 0.2, 0.3, 0.4, 1.0)] == pytest.approx(
        [0.8, 0.8, 0.65, 0.5, 0.5]
    )
    assert [dense_weight(0.1, known) for known in (0.2, 0.5, 0.65, 0.8, 1.0)] == pytest.approx(
        [0.3, 0.3, 0.55, 0.8, 0.8]
    )
    assert dense_weight(0.4, 1.0) == 0.5


@given(st.lists(st.tuples(SCORED, SCORED, st.floats(0, 1)), min_size=1, max_size=4), st.integers(1, 15))
def test_rows_are_fused_to_the_bits_of_single_rankings(
    asked: list[tuple[dict[int, float], dict[int, float], float]], depth: int
) -> None:
    sides = []
    for side in (0, 1):
        scores, ids = nothing(len(asked), 13)
        for row, given_row in enumerate(asked):
            found = merge_topk([tuple(part[None] for part in _arrays(given_row[side])[::-1])], 13)
            scores[row], ids[row] = found[0][0], found[1][0]
        sides.append((scores, ids))
    weights = np.array([weight for _, _, weight in asked])
    got_scores, got_ids = weighted_rows(*sides, weights, depth)
    for row, weight in enumerate(weights.tolist()):
        held = [(ids[row][ids[row] >= 0], scores[row][ids[row] >= 0]) for scores, ids in sides]
        want_ids, want_scores = weighted(held, (1 - weight, weight), depth)
        assert got_ids[row].tolist() == want_ids.tolist() + [-1] * (depth - len(want_ids))
        assert got_scores[row][: len(want_scores)].tolist() == want_scores.tolist()
