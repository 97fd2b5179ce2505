"""Top-k gives the same bits for every way to shard the rows, duplicates and ties included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.rank import topk
from rag_hpc.algo.rank.topk import Hits, exact_topk, merge_topk
from rag_hpc.algo.types import Array
from rag_hpc.errors import ConfigError, InputError


def slow_topk(queries_QD: Array, vectors_ND: Array, k: int) -> Hits:
    """Return the same hits one pair at a time, sorted in Python."""
    scores = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    ids = np.full((len(queries_QD), k), -1, dtype=np.int64)
    for q, query in enumerate(queries_QD):
        each = [np.float32((v.astype(np.float64) * query.astype(np.float64)).sum() + 0.0) for v in vectors_ND]
        order = sorted(range(len(each)), key=lambda i: (-each[i], i))[:k]
        scores[q, : len(order)] = [each[i] for i in order]
        ids[q, : len(order)] = order
    return scores, ids


def same_bits(left: Hits, right: Hits) -> bool:
    return left[0].tobytes() == right[0].tobytes() and left[1].tobytes() == right[1].tobytes()


def rows_with_duplicates(rng: np.random.Generator, num: int, dims: int, dtype: type) -> Array:
    """Return rows, about half of them copies of others, and some apart only in the last bits."""
    base = rng.standard_normal((max(1, num // 2), dims)).astype(dtype)
    rows = base[rng.integers(0, len(base), num)]
    near = rng.random(num) < 0.2
    rows[near, 0] = np.nextafter(rows[near, 0], np.asarray(np.inf, dtype=dtype))
    return rows


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(0, 90),
    dims=st.sampled_from([1, 3, 8, 33, 130]),
    k=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    block=st.sampled_from([1, 7, 64, 65536]),
    half=st.booleans(),
)
def test_any_partition_merges_to_the_bits_of_one_shard(
    seed: int, num: int, dims: int, k: int, cuts: list[int], block: int, half: bool
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((5, dims)).astype(np.float32)
    rows = rows_with_duplicates(rng, num, dims, np.float16 if half else np.float32)
    whole = exact_topk(queries, rows, k)
    edges = [0, *sorted(min(c, num) for c in cuts), num]
    shards = [exact_topk(queries, rows[a:b], k, first_id=a, block=block) for a, b in itertools.pairwise(edges)]
    order = rng.permutation(len(shards))
    assert same_bits(merge_topk([shards[i] for i in order], k), whole)
    assert same_bits(slow_topk(queries, rows, k), whole)


def test_ten_thousand_identical_rows_return_the_lowest_ids() -> None:
    rng = np.random.default_rng(3)
    row = rng.standard_normal(64).astype(np.float16)
    rows = np.repeat(row[None], 10_000, axis=0)
    queries = rng.standard_normal((3, 64)).astype(np.float32)
    scores, ids = exact_topk(queries, rows, 5, first_id=100, block=999)
    assert ids.tolist() == [[100, 101, 102, 103, 104]] * 3
    assert np.all(scores == scores[:, :1])


def test_scores_that_fp32_cannot_tell_apart_are_ranked_by_the_float64_sum() -> None:
    dims = 4096
    query = np.ones((1, dims), dtype=np.float32)
    rows = np.full((3, dims), 1 / 3, dtype=np.float32)
    rows[2, -1] = 0.34  # only this row is better, by less than a naive fp32 sum's error
    scores, ids = exact_topk(query, rows, 3)
    assert ids[0].tolist() == [2, 0, 1]
    assert scores[0, 0] > scores[0, 1] == scores[0, 2]


@pytest.mark.parametrize("block", [40, 65536])
@pytest.mark.parametrize("k", [1, 3])
def test_best_row_is_kept_where_fp32_errors_exceed_the_differences(k: int, block: int) -> None:
    rng = np.random.default_rng(7)
    rows = np.repeat(rng.standard_normal((1, 700)).astype(np.float32), 400, axis=0)
    flips = rng.random(rows.shape) < 0.02
    rows[flips] = np.nextafter(rows[flips], np.float32(np.inf))
    queries = rng.standard_normal((8, 700)).astype(np.float32)
    assert same_bits(exact_topk(queries, rows, k, block=block), slow_topk(queries, rows, k))


def test_memory_map_gives_the_same_bits_as_memory(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 16)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    queries = rng.standard_normal((4, 16)).astype(np.float32)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert same_bits(exact_topk(queries, mapped, 9, block=64), exact_topk(queries, rows, 9))


def test_fewer_rows_than_k_leave_marked_gaps() -> None:
    scores, ids = exact_topk(np.ones((2, 4), dtype=np.float32), np.ones((1, 4), dtype=np.float32), 3)
    assert ids.tolist() == [[0, -1, -1]] * 2
    assert scores[:, 1:].tolist() == [[-np.inf, -np.inf]] * 2


def test_negative_zero_is_not_a_score() -> None:
    rows = np.array([[0.0], [-0.0]], dtype=np.float32)
    scores, ids = exact_topk(np.array([[-1.0]], dtype=np.float32), rows, 2)
    assert ids.tolist() == [[0, 1]] and not np.signbit(scores).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_values_that_cannot_be_ranked_are_refused(bad: float) -> None:
    rows = np.ones((3, 4), dtype=np.float32)
    rows[1, 2] = bad
    with pytest.raises(InputError, match=r"rows 0\.\.2"):
        exact_topk(np.ones((1, 4), dtype=np.float32), rows, 1)
    with pytest.raises(InputError, match="queries"):
        exact_topk(rows, np.ones((1, 4), dtype=np.float32), 1)


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    one = np.ones((1, 4), dtype=np.float32)
    with pytest.raises(InputError, match="same model"):
        exact_topk(one, np.ones((2, 5), dtype=np.float32), 1)
    with pytest.raises(InputError, match="float16 or float32"):
        exact_topk(one, np.ones((2, 4)), 1)
    with pytest.raises(ConfigError, match="k=0"):
        exact_topk(one, one, 0)
    with pytest.raises(ConfigError, match="no shard"):
        merge_topk([], 3)


@pytest.mark.parametrize("dims", [3, 384])
def test_candidates_are_ranked_as_exact_search_ranks_them(dims: int) -> None:
    rng = np.random.default_rng(dims)
    rows = rng.standard_normal((300, dims)).astype(np.float16)
    rows[200:] = rows[:100]  # ties
    queries = rng.standard_normal((7, dims)).astype(np.float32)
    everyone = np.stack([rng.permutation(300) for _ in queries])
    want = topk.exact_topk(queries, rows, 10)
    found = topk.rescore(queries, rows, everyone, 10, longest_row=topk.longest(rows))
    assert [part.tobytes() for part in found] == [part.tobytes() for part in want]
    parts = []
    for first, stop in ((0, 120), (120, 120), (120, 300)):
        part = rows[first:stop]
        longest = topk.longest(part)
        parts.append(topk.rescore(queries, part, everyone, 10, first_id=first, longest_row=longest))
    assert topk.merge_topk(parts, 10)[1].tobytes() == want[1].tobytes()
    slow = topk.rescore(queries, rows, everyone, 10)
    assert [part.tobytes() for part in slow] == [part.tobytes() for part in want]
    few = topk.rescore(queries, rows, np.full((7, 4), -1), 10, longest_row=1.0)
    assert (few[1] == -1).all() and few[1].shape == (7, 10)


def test_float16_rows_become_the_same_float32() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    widened = topk.single(every[::2])
    np.testing.assert_array_equal(widened, every[::2].astype(np.float32))
    assert widened.flags.c_contiguous and topk.single(widened) is widened


def test_the_largest_error_is_no_less_than_any_row_s() -> None:
    rng = np.random.default_rng(0)
    rows, centroids = (
        rng.standard_normal((300, 40)).astype(np.float16),
        rng.standard_normal((20, 40)).astype(np.float32),
    )
    bound = topk.error_bound(rows.astype(np.float32), centroids).max()
    for some in (rows, rows.astype(np.float32)):
        assert bound <= topk.largest_error(some, topk.longest(centroids)) <= bound * 1.001


def test_longest_is_no_less_than_any_norm() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 77)).astype(np.float16)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert norms.max() <= topk.longest(rows) <= norms.max() * 1.0001


@pytest.mark.parametrize("num", [200, 400])
def test_nearest_rows_depend_on_the_pair_alone(num: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((num, 96)).astype(np.float32)
    rows[150:200] = rows[:50]
    queries = rng.standard_normal((64, 96)).astype(np.float32)
    scores, ids = topk.nearest_rows(queries, rows, 20)
    exact = np.sort(queries.astype(np.float64) @ rows.T.astype(np.float64), axis=1)[:, ::-1][:, :20]
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-5)
    for few in (1, 19, 20):
        part = topk.nearest_rows(queries[:few], rows, 20)
        assert part[0].tobytes() == scores[:few].tobytes() and part[1].tobytes() == ids[:few].tobytes()
    assert (np.sort(topk.nearest_rows(queries, rows, num)[1], axis=1) == np.arange(num)).all()


def test_hits_with_large_ids_and_any_score_merge_alike() -> None:
    rng = np.random.default_rng(1)
    scores = rng.choice(np.array([-np.inf, -2.5, -1e-40, -0.0, 0.0, 3.0, np.inf], dtype=np.float32), (6, 50))
    ids = np.stack([rng.permutation(70)[:50] for _ in range(6)]) - 10
    found = merge_topk([(scores[:, :20], ids[:, :20]), (scores[:, 20:], ids[:, 20:])], 30)
    for row in range(6):
        ranked = sorted((-float(s), int(i)) for s, i in zip(scores[row], ids[row], strict=True) if i >= 0)[:30]
        assert found[1][row].tolist() == [i for _, i in ranked]
        assert (
            found[0][row].tolist() == [-s for s, _ in ranked]
            and not np.signbit(found[0][row][found[0][row] == 0]).any()
        )
    far = np.where(ids >= 0, ids + 2**40, -1)
    wide = merge_topk([(scores, far)], 30)
    assert (wide[1] == found[1] + 2**40).all() and (wide[0] == found[0]).all()


def test_sums_in_any_order_are_taken_only_where_rounding_is_settled() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((50, 64)).astype(np.float16)
    queries = rng.standard_normal((3, 64)).astype(np.float32)
    queries[1] = 0
    everyone = np.tile(np.arange(50), (3, 1))
    want = topk.rescore(queries, rows, everyone, 50)
    for longest in (topk.longest(rows), 1e9):  # of so long rows nothing would be settled
        found = topk.rescore(queries, rows, everyone, 50, longest_row=longest)
        assert same_bits(found, want)
    out = np.empty((3, 50), dtype=np.float32)
    known = topk._summed(queries, rows, everyone, topk.longest(rows), out)
    assert known[[0, 2]].mean() > 0.99 and not known[1].any()
    assert not topk._summed(queries, rows, everyone, 1e9, out).any()
