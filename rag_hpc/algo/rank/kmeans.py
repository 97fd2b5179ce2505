"""Lloyd's k-means over blocks of rows that ranks share out, with centroids that do not depend on the sharing.

Shapes: B rows of a block, D dimensions, K centroids. The blocks are the same for every number of ranks, each is worked
on alone, and partial sums are added in block order; so p ranks give the bytes of one. Source: Lloyd 1982.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rag_hpc.algo.types import F32, F64, I64, Array
from rag_hpc.errors import ConfigError, InputError

log = logging.getLogger(__name__)

# Takes this rank's arrays by block; returns, on every rank, the sum of all ranks' arrays added in block order.
Reduce = Callable[[dict[int, F64]], F64]

_ROWS = 4096  # rows compared with the centroids at once
_NUDGE = 1.0 / 1024  # relative distance of the halves of a split cluster


@dataclass(kw_only=True)
class KMeansConfig:
    """Settings of one training."""

    num_centroids: int
    num_iters: int = 10
    seed: int = 0
    spherical: bool = False  # unit centroids, nearest by inner product

    def __post_init__(self) -> None:
        if self.num_centroids < 1 or self.num_iters < 1:
            raise ConfigError(
                f"kmeans: num_centroids={self.num_centroids}, num_iters={self.num_iters}: both must be at least 1"
            )


def train(blocks: Mapping[int, Array], num_blocks: int, config: KMeansConfig, reduce: Reduce) -> F32:
    """Return centroids_KD, the same bytes on every rank and for every number of ranks.

    blocks: this rank's share of the blocks 0..num_blocks-1, rows float16 or float32. Each call of `reduce` moves
    K * (D + 1) float64 a block. Raises InputError when the sample has fewer rows than centroids.
    """
    own = {b: _checked(b, rows, num_blocks) for b, rows in sorted(blocks.items())}
    centroids_KD = _pick_rows(own, num_blocks, config, reduce)
    for iteration in range(config.num_iters):
        partial = {b: _block_sums(rows, centroids_KD, config.spherical) for b, rows in own.items()}
        total = reduce(partial)
        counts_K, sums_KD = total[:, -1], total[:, :-1]
        filled = counts_K > 0
        means_KD = np.where(filled[:, None], sums_KD / np.maximum(counts_K, 1)[:, None], centroids_KD)
        updated_KD = _finish(_split_for_empty(means_KD, counts_K), config.spherical)
        log.debug("kmeans iteration %d: %d empty clusters", iteration, int((~filled).sum()))
        if np.array_equal(updated_KD, centroids_KD):
            break
        centroids_KD = updated_KD
    return centroids_KD


def assign(rows_BD: Array, centroids_KD: F32, *, spherical: bool = False) -> I64:
    """Return each row's nearest centroid (largest inner product when spherical), ties to the lowest number."""
    nearest_B = np.empty(len(rows_BD), dtype=np.int64)
    half_norms_K = np.zeros(len(centroids_KD)) if spherical else 0.5 * np.square(centroids_KD.astype(np.float64)).sum(1)
    for low in range(0, len(rows_BD), _ROWS):
        part_BD = np.ascontiguousarray(rows_BD[low : low + _ROWS], dtype=np.float32)
        scores_BK = part_BD @ centroids_KD.T - half_norms_K.astype(np.float32)
        nearest_B[low : low + _ROWS] = scores_BK.argmax(1)
    return nearest_B


def _checked(block: int, rows_BD: Array, num_blocks: int) -> Array:
    if not 0 <= block < num_blocks or rows_BD.ndim != 2:
        raise InputError(f"kmeans: block {block} of shape {rows_BD.shape}; blocks are 0..{num_blocks - 1} of [B, D]")
    if not np.isfinite(rows_BD).all():
        raise InputError(f"kmeans: block {block} holds NaN or infinity; encode those rows again")
    return rows_BD


def _pick_rows(own: Mapping[int, Array], num_blocks: int, config: KMeansConfig, reduce: Reduce) -> F32:
    """Return K different rows of the whole sample, drawn by position."""
    eye = np.eye(num_blocks)
    sizes = reduce({b: np.stack([eye[b] * len(rows), eye[b] * rows.shape[1]]) for b, rows in own.items()})
    num_rows, dims = int(sizes[0].sum()), int(sizes[1].max())
    if num_rows < config.num_centroids:
        raise InputError(
            f"kmeans: {num_rows} rows for {config.num_centroids} centroids; sample more or use fewer centroids"
        )
    chosen_K = np.random.default_rng(config.seed).permutation(num_rows)[: config.num_centroids]
    starts = np.concatenate([[0], np.cumsum(sizes[0]).astype(np.int64)])
    picked = {}
    for b, rows in own.items():
        picked[b] = np.zeros((config.num_centroids, dims))
        here_K = (chosen_K >= starts[b]) & (chosen_K < starts[b + 1])
        picked[b][here_K] = rows[chosen_K[here_K] - starts[b]]
    return _finish(reduce(picked), config.spherical)


def _block_sums(rows_BD: Array, centroids_KD: F32, spherical: bool) -> F64:
    """Return [K, D + 1]: the sum of each centroid's rows, and in the last column their number."""
    total = np.zeros((len(centroids_KD), rows_BD.shape[1] + 1))
    nearest_B = assign(rows_BD, centroids_KD, spherical=spherical)
    order = np.argsort(nearest_B, kind="stable")
    present, starts, counts = np.unique(nearest_B[order], return_index=True, return_counts=True)
    if len(present):
        total[present, :-1] = np.add.reduceat(rows_BD[order].astype(np.float64), starts, axis=0)
        total[present, -1] = counts
    return total


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


def _finish(means_KD: F64, spherical: bool) -> F32:
    if spherical:
        means_KD = means_KD / np.maximum(np.sqrt(np.square(means_KD).sum(1)), 1e-12)[:, None]
    return means_KD.astype(np.float32)
