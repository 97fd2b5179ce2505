"""K-means gives the same bytes for every number of ranks, and every centroid ends with rows of its own."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from rag_hpc.algo.rank import kmeans
from rag_hpc.algo.rank.kmeans import KMeansConfig
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.errors import ConfigError, InputError


class FakeComm:
    """Sums over ranks that are threads of this process, in an order that no rank knows."""

    def __init__(self, num_ranks: int) -> None:
        self._barrier = threading.Barrier(num_ranks, timeout=100)
        self._parts: list[Any] = [None] * num_ranks

    def reduce(self, rank: int, mine: I64) -> I64:
        assert mine.dtype == np.int64  # floats would depend on the order
        self._parts[rank] = mine.copy()
        self._barrier.wait()
        total = sum(self._parts[1:], self._parts[0])
        self._barrier.wait()
        return np.array(total)


def sample(num: int = 900, dims: int = 12, seed: int = 5) -> list[Array]:
    """Return float16 rows around 20 centres, cut into 8 uneven blocks, one of them empty."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dims)) * 4
    rows = (centres[rng.integers(0, 20, num)] + rng.standard_normal((num, dims))).astype(np.float16)
    return np.split(rows, [10, 10, 100, 333, 400, 600, 850])


def train_on(num_ranks: int, blocks: list[Array], config: KMeansConfig) -> list[F32]:
    comm = FakeComm(num_ranks)
    results: list[Any] = [None] * num_ranks
    places = np.split(np.arange(sum(map(len, blocks))), np.cumsum([len(rows) for rows in blocks])[:-1])

    def work(rank: int) -> None:
        own = [b for b in range(len(blocks)) if b % num_ranks == rank]
        rows = np.concatenate([blocks[b] for b in own] or [blocks[0][:0]])
        at = np.concatenate([places[b] for b in own] or [places[0][:0]])
        results[rank] = kmeans.train(rows, at, config, kmeans.assign, lambda mine: comm.reduce(rank, mine))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_ranks)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results


def test_one_two_three_and_seven_ranks_give_equal_bytes() -> None:
    config = KMeansConfig(num_centroids=25, num_iters=6, seed=1)
    outcomes = {c.tobytes() for p in (1, 2, 3, 7) for c in train_on(p, sample(), config)}
    assert len(outcomes) == 1


def test_more_ranks_than_blocks_is_no_error() -> None:
    blocks = sample()[:1]
    config = KMeansConfig(num_centroids=3, num_iters=2)
    assert len({c.tobytes() for c in [*train_on(1, blocks, config), *train_on(4, blocks, config)]}) == 1


@pytest.mark.parametrize("dims", [7, 96])
def test_sums_of_float16_rows_are_those_of_the_same_numbers_in_float32(dims: int) -> None:
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((500, dims)) * 10.0 ** rng.integers(-6, 4, (500, 1))).astype(np.float16)
    rows[0, 0], rows[1, 1] = np.float16(6e-8), np.float16(-65504)
    settings = KMeansConfig(num_centroids=12, num_iters=4, seed=3)
    found = [
        kmeans.train(given, np.arange(500), settings, kmeans.assign, lambda whole: whole)
        for given in (rows, rows.astype(np.float32))
    ]
    assert found[0].tobytes() == found[1].tobytes()


def test_another_seed_gives_other_centroids() -> None:
    first, second = (train_on(1, sample(), KMeansConfig(num_centroids=9, num_iters=1, seed=s))[0] for s in (0, 1))
    assert first.tobytes() != second.tobytes()


def test_training_raises_the_product_with_the_nearest_centroid() -> None:
    rows = np.concatenate(sample()).astype(np.float32)

    def products(num_iters: int) -> float:
        centroids = train_on(1, sample(), KMeansConfig(num_centroids=20, num_iters=num_iters))[0]
        return float((rows @ centroids.T).max(1).sum())

    steps = [products(n) for n in (1, 3, 10)]
    assert steps[0] < steps[1] <= steps[2]


def test_rows_that_are_not_searched_again_would_have_stayed() -> None:
    rows = np.concatenate(sample()).astype(np.float32)
    searched: list[int] = []

    def every(part: Array, centroids: F32) -> tuple[I64, F32]:
        searched.append(len(part))
        return kmeans.assign(part, centroids)[0], np.full(len(part), -1, dtype=np.float32)

    def sparing(part: Array, centroids: F32) -> tuple[I64, F32]:
        searched.append(len(part))
        return kmeans.assign(part, centroids)

    config, places = KMeansConfig(num_centroids=20, num_iters=12), np.arange(len(rows))
    want, most = kmeans.train(rows, places, config, every, lambda mine: mine), sum(searched)
    searched.clear()
    assert kmeans.train(rows, places, config, sparing, lambda mine: mine).tobytes() == want.tobytes()
    assert sum(searched) < 0.8 * most


def test_centroids_are_the_means_of_their_rows() -> None:
    rows = np.concatenate(sample()).astype(np.float32)
    centroids = train_on(1, sample(), KMeansConfig(num_centroids=9, num_iters=100))[0]
    nearest = kmeans.assign(rows, centroids)[0]
    means = np.stack([rows[nearest == c].astype(np.float64).mean(0) for c in range(9)])
    np.testing.assert_allclose(means / np.linalg.norm(means, axis=1, keepdims=True), centroids, rtol=1e-6)


def test_identical_rows_leave_no_cluster_without_a_finite_centroid() -> None:
    blocks = [np.ones((30, 4), dtype=np.float32), np.full((2, 4), 9, dtype=np.float32) * [1, -1, 1, 1]]
    centroids = train_on(1, blocks, KMeansConfig(num_centroids=6, num_iters=8))[0]
    assert np.isfinite(centroids).all() and len(np.unique(centroids, axis=0)) >= 5  # of two different rows


def test_empty_cluster_takes_half_of_the_largest() -> None:
    means = np.array([[1.0, 1.0], [5.0, 5.0], [0.0, 0.0]])
    got = kmeans._split_for_empty(means, np.array([2.0, 8.0, 0.0]))
    assert got[0].tolist() == [1.0, 1.0]
    assert np.allclose((got[1] + got[2]) / 2, 5.0) and not np.array_equal(got[1], got[2])


def test_second_empty_cluster_takes_from_the_one_that_is_largest_by_then() -> None:
    got = kmeans._split_for_empty(np.array([[1.0], [5.0], [0.0], [0.0]]), np.array([5.0, 8.0, 0.0, 0.0]))
    np.testing.assert_allclose(got[:, 0], [1, 5, 5, 1], rtol=0.01)


def test_spherical_centroids_have_length_one() -> None:
    centroids = train_on(1, sample(), KMeansConfig(num_centroids=7, num_iters=3))[0]
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-6)


def test_assign_is_the_brute_force_nearest() -> None:
    rows = np.concatenate(sample()).astype(np.float32)
    centroids = train_on(1, sample(), KMeansConfig(num_centroids=11))[0]
    products = rows.astype(np.float64) @ centroids.T.astype(np.float64)
    nearest, gap = kmeans.assign(rows, centroids)
    assert nearest.tolist() == products.argmax(1).tolist()
    assert (gap <= np.diff(np.sort(products, axis=1)[:, -2:], axis=1)[:, 0]).all()


def test_bad_samples_and_settings_are_refused() -> None:
    def alone(rows: Array, num_centroids: int) -> F32:
        config = KMeansConfig(num_centroids=num_centroids)
        return kmeans.train(rows, np.arange(len(rows)), config, kmeans.assign, lambda mine: mine)

    with pytest.raises(InputError, match="5 rows for 6 centroids"):
        alone(np.ones((5, 2)), 6)
    with pytest.raises(InputError, match="holds NaN"):
        alone(np.full((5, 2), np.nan), 2)
    with pytest.raises(InputError, match="they must be"):
        alone(np.ones(5), 2)
    with pytest.raises(ConfigError, match="num_centroids=0"):
        KMeansConfig(num_centroids=0)
