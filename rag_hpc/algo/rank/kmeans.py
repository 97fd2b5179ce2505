"""Spherical k-means over rows that ranks share out, with centroids that do not depend on the sharing.

Shapes: B rows of a rank, D dimensions, K centroids. Rows are summed as integers, in steps of a power of two, so that
every order of addition gives the same sum and moving a row from one cluster to another is exact: p ranks give the bytes
of one, and hold a sum each. Source: Lloyd 1982; Dhillon and Modha 2001; the bound that spares a row its search is
Hamerly's, 2010.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rag_hpc.algo.types import F32, F64, I64, Array
from rag_hpc.errors import ConfigError, InputError

log = logging.getLogger(__name__)

Reduce = Callable[[I64], I64]  # takes this rank's integers; returns, on every rank, their sum over all ranks
# takes rows and centroids; returns each row's nearest centroid, ties to the lowest number, and by how much, at the
# least, its inner product is above the second's
Assign = Callable[[Array, F32], tuple[I64, F32]]

_ROWS = 4096  # rows that are made integers at once
_NUDGE = 1.0 / 1024  # relative distance of the halves of a split cluster
_EXPONENTS = 300  # of float32 numbers, from 2**-150
_BITS = 62  # of a sum


@dataclass(kw_only=True)
class KMeansConfig:
    """Settings of one training."""

    num_centroids: int
    num_iters: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_centroids < 1 or self.num_iters < 1:
            raise ConfigError(
                f"kmeans: num_centroids={self.num_centroids}, num_iters={self.num_iters}: both must be at least 1"
            )


def train(rows_BD: Array, places_B: I64, config: KMeansConfig, assign: Assign, reduce: Reduce) -> F32:
    """Return centroids_KD of length one, the same bytes on every rank and for every number of ranks.

    rows_BD: this rank's share, float16 or float32, which all ranks give with the same D. places_B: their positions in
    the whole sample. Each call of `reduce` moves K * (D + 1) int64. Raises InputError when the sample has fewer rows
    than centroids, or a row that is not finite.
    """
    sums = _Sums(_checked(rows_BD), config.num_centroids, reduce)
    centroids_KD = _pick_rows(rows_BD, places_B, config, sums)
    norms_B = np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD, dtype=np.float64))
    nearest_B, gap_B = np.full(len(rows_BD), -1, dtype=np.int64), np.full(len(rows_BD), -np.inf)
    for iteration in range(config.num_iters):
        open_B = np.flatnonzero(gap_B <= 0)
        found, gaps = assign(rows_BD if len(open_B) == len(rows_BD) else rows_BD[open_B], centroids_KD)
        moved = found != nearest_B[open_B]
        sums.move(open_B[moved], nearest_B[open_B[moved]], found[moved])
        nearest_B[open_B], gap_B[open_B] = found, gaps
        means_KD, counts_K = sums.means(centroids_KD)
        updated_KD = _unit(_split_for_empty(means_KD, counts_K))
        log.debug("kmeans iteration %d: %d searched, %d moved", iteration, len(open_B), int(moved.sum()))
        if np.array_equal(updated_KD, centroids_KD):
            break
        drift_K = np.sqrt(np.square(updated_KD.astype(np.float64) - centroids_KD).sum(1))
        gap_B -= norms_B * (drift_K[nearest_B] + drift_K.max(initial=0.0)) * (1 + 1e-6)
        centroids_KD = updated_KD
    return centroids_KD


def assign(rows_BD: Array, centroids_KD: F32) -> tuple[I64, F32]:
    """Return what Assign says, by numpy: exact to float32's rounding, for small samples."""
    scores_BK = rows_BD.astype(np.float32) @ centroids_KD.T
    nearest_B = scores_BK.argmax(1).astype(np.int64)
    if len(centroids_KD) == 1:
        return nearest_B, np.full(len(rows_BD), np.inf, dtype=np.float32)
    best_B2 = np.partition(scores_BK, len(centroids_KD) - 2, axis=1)[:, -2:]
    return nearest_B, (best_B2[:, 1] - best_B2[:, 0] - np.float32(1e-5)).astype(np.float32)


class _Sums:
    """This rank's part of the clusters' sums and sizes, [K, D + 1] int64, which are exact."""

    def __init__(self, rows_BD: Array, num_centroids: int, reduce: Reduce) -> None:
        """Find the step: of the sample's largest number and its size, so that no sum can overflow."""
        exponents = np.zeros(_EXPONENTS + 2, dtype=np.int64)
        largest = float(np.abs(rows_BD).max(initial=0.0))
        exponents[int(np.clip(np.frexp(largest)[1] + 150, 0, _EXPONENTS - 1))] = 1
        exponents[-2:] = len(rows_BD), rows_BD.shape[1] if len(rows_BD) else 0
        whole = reduce(exponents)
        self.num_rows = int(whole[-2])
        self._scale = _BITS - self.num_rows.bit_length() - (int(np.flatnonzero(whole[:-2]).max()) - 150)
        self._rows_BD, self._reduce = rows_BD, reduce
        self._sums = np.zeros((num_centroids, rows_BD.shape[1] + 1), dtype=np.int64)

    def integers(self, at: I64) -> I64:
        """Return these rows in steps of 2**-scale, rounded to them, and a one behind each."""
        whole = np.empty((len(at), self._rows_BD.shape[1] + 1), dtype=np.int64)
        whole[:, :-1] = np.rint(np.ldexp(self._rows_BD[at].astype(np.float64), self._scale))
        whole[:, -1] = 1
        return whole

    def floats(self, whole: I64) -> F64:
        """Return what integers stand for."""
        return np.ldexp(whole.astype(np.float64), -self._scale)

    def move(self, at: I64, old: I64, new: I64) -> None:
        """Take rows out of their old clusters (-1: none) and add them to their new ones."""
        if self._rows_BD.dtype == np.float16:
            from rag_hpc.algo.rank import pairs

            bits_BD = np.ascontiguousarray(self._rows_BD).view(np.uint16)
            pairs.move(bits_BD, at, old, new, 2.0**self._scale, self._sums)
            return
        for low in range(0, len(at), _ROWS):
            part = slice(low, low + _ROWS)
            whole = self.integers(at[part])
            self._add(whole, new[part], np.add)
            self._add(whole, old[part], np.subtract)

    def means(self, otherwise_KD: F32) -> tuple[F64, F64]:
        """Return the clusters' means over all ranks, the given ones for those without rows, and their sizes."""
        whole = self._reduce(self._sums)
        counts_K = whole[:, -1].astype(np.float64)
        means_KD = self.floats(whole[:, :-1]) / np.maximum(counts_K, 1)[:, None]
        return np.where(counts_K[:, None] > 0, means_KD, otherwise_KD), counts_K

    def sum_of(self, part: I64) -> F64:
        """Return the sum over ranks as floats."""
        return self.floats(self._reduce(part))

    def _add(self, whole: I64, clusters: I64, how: np.ufunc) -> None:
        kept = np.flatnonzero(clusters >= 0)
        order = kept[np.argsort(clusters[kept], kind="stable")]
        if len(order):
            present, starts = np.unique(clusters[order], return_index=True)
            self._sums[present] = how(self._sums[present], np.add.reduceat(whole[order], starts, axis=0))


def _checked(rows_BD: Array) -> Array:
    if rows_BD.ndim != 2:
        raise InputError(f"kmeans: rows of shape {rows_BD.shape}; they must be [B, D]")
    if not np.isfinite(rows_BD).all():
        raise InputError("kmeans: the sample holds NaN or infinity; encode those rows again")
    return rows_BD


def _pick_rows(rows_BD: Array, places_B: I64, config: KMeansConfig, sums: _Sums) -> F32:
    """Return K different rows of the whole sample, drawn by position."""
    if sums.num_rows < config.num_centroids:
        raise InputError(
            f"kmeans: {sums.num_rows} rows for {config.num_centroids} centroids; sample more or use fewer centroids"
        )
    chosen_K = np.random.default_rng(config.seed).permutation(sums.num_rows)[: config.num_centroids]
    order = np.argsort(places_B, kind="stable")
    at_K = np.searchsorted(places_B, chosen_K, sorter=order).clip(max=max(0, len(places_B) - 1))
    picked = np.zeros((config.num_centroids, rows_BD.shape[1]), dtype=np.int64)
    if len(places_B):
        here_K = places_B[order[at_K]] == chosen_K
        picked[here_K] = sums.integers(order[at_K[here_K]])[:, :-1]
    return _unit(sums.sum_of(picked))


def _split_for_empty(means_KD: F64, counts_K: F64) -> F64:
    """Return the means with each empty cluster made half of the one that is largest by then (ties: lowest number)."""
    means_KD, left_K = means_KD.copy(), counts_K.copy()
    for empty in np.nonzero(counts_K == 0)[0]:
        largest = int(left_K.argmax())
        signs_D = np.where(np.arange(means_KD.shape[1]) % 2 == 0, 1.0, -1.0)
        means_KD[empty] = means_KD[largest] * (1 + _NUDGE * signs_D)
        means_KD[largest] = means_KD[largest] * (1 - _NUDGE * signs_D)
        left_K[empty] = left_K[largest] = left_K[largest] / 2
    return means_KD


def _unit(means_KD: F64) -> F32:
    means_KD = means_KD / np.maximum(np.sqrt(np.square(means_KD).sum(1)), 1e-12)[:, None]
    return means_KD.astype(np.float32)
