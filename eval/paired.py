"""Two systems on the same queries: how much better one is, how sure that is, and what chance alone would do.

The interval is the percentile bootstrap over queries (Efron, Tibshirani 1993), p that of Fisher's randomisation test,
which deals the signs of the differences (Smucker, Allan, Carterette 2007). Several p are adjusted by Holm (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_hpc.algo.types import F64

DRAWS, BLOCK, SEED = 10_000, 200, 0  # resamples, at a time
SURE = 12  # queries up to which all signs are dealt, so that p is exact


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference of paired values with its 95 percent interval; p: two-sided, of no difference at all."""

    mean: float
    low: float
    high: float
    p: float
    num: int


def difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Return how the values differ from the reference's, of the same queries in the same order (at least one)."""
    apart_Q = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    means = _resampled(apart_Q)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(
        mean=float(apart_Q.mean()), low=float(low), high=float(high), p=randomisation(apart_Q), num=len(apart_Q)
    )


def randomisation(apart_Q: F64) -> float:
    """Return the share of ways to deal the signs whose mean is at least as far from 0, the observed one among them."""
    size, observed = len(apart_Q), abs(float(apart_Q.mean())) - 1e-12
    if size <= SURE:
        signs = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)
        return float((np.abs(signs @ apart_Q) / size >= observed).mean())
    rng, num = np.random.default_rng(SEED), 0
    for _ in range(DRAWS // BLOCK):
        signs = 1 - 2 * rng.integers(2, size=(BLOCK, size))
        num += int((np.abs(signs @ apart_Q) / size >= observed).sum())
    return (num + 1) / (DRAWS + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p of several tests, adjusted so that one wrong rejection among all of them stays as rare as asked."""
    order = sorted(range(len(ps)), key=lambda n: ps[n])
    adjusted, least = [0.0] * len(ps), 0.0
    for place, number in enumerate(order):
        least = max(least, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = least
    return adjusted


def _resampled(apart_Q: F64) -> F64:
    rng, size = np.random.default_rng(SEED), len(apart_Q)
    blocks: list[F64] = [apart_Q[rng.integers(size, size=(BLOCK, size))].mean(axis=1) for _ in range(DRAWS // BLOCK)]
    return np.concatenate(blocks)
