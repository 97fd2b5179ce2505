"""Gradient boosting of small trees: logistic loss on binned features, best leaf first.

Friedman 2001; Ke et al. 2017 (LightGBM). In numpy and numba, so that the same rows give the same trees whatever the
versions of other libraries. Shapes: N rows, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.extract_model import DEPTH, Trees
from rag_hpc.algo.jit import jit_inlined

NUM_TREES, NUM_LEAVES, RATE, L2, MIN_ROWS, NUM_BINS = 160, 8, 0.08, 1.0, 20, 64
ROW_SHARE, COLUMN_SHARE = 0.5, 0.4  # that a tree sees

Floats = npt.NDArray[np.float32]


def fit(x_NF: Floats, y_N: npt.NDArray[Any], weight_N: npt.NDArray[Any], seed: int = 0) -> Trees:
    """Return trees that estimate the log odds of y. Deterministic for a seed."""
    rng = np.random.default_rng(seed)
    edges = [_edges(x_NF[:, f]) for f in range(x_NF.shape[1])]
    binned = np.ascontiguousarray(
        np.stack([np.searchsorted(e, x_NF[:, f], side="left") for f, e in enumerate(edges)]).astype(np.uint8)
    )
    mean = float(np.average(y_N, weights=weight_N))
    bias = float(np.log(mean / (1 - mean)))
    score = np.full(len(y_N), bias)
    features: list[int] = []
    thresholds: list[float] = []
    lefts: list[int] = []
    values: list[float] = []
    roots: list[int] = []
    for _ in range(NUM_TREES):
        p = 1 / (1 + np.exp(-score))
        rows = np.flatnonzero(rng.random(len(y_N)) < ROW_SHARE)
        drawn = np.flatnonzero(rng.random(len(edges)) < COLUMN_SHARE)
        columns = drawn if len(drawn) else np.arange(len(edges))
        tree = np.zeros((2 * NUM_LEAVES - 1, 4))
        size = _grow(binned, rows, columns, weight_N * (y_N - p), weight_N * p * (1 - p), tree)
        _add(binned, tree, score)
        base = len(features)
        roots.append(base)
        for at, (feature, cut, left, value) in enumerate(tree[:size]):
            features.append(int(feature))
            thresholds.append(float(edges[int(feature)][int(cut)]) if left else np.inf)
            lefts.append(base + (int(left) if left else at))
            values.append(float(value))
    return Trees(np.array(features, np.uint16), np.array(thresholds, np.float32), np.array(lefts, np.uint16),
                 np.array(values, np.float32), np.array(roots, np.uint16), bias)


def _edges(column: Floats) -> Floats:
    """Return at most NUM_BINS - 1 cuts: a value goes left of a cut when it is not larger."""
    values = np.unique(column)
    if len(values) > NUM_BINS:
        values = np.unique(np.quantile(column, np.linspace(0, 1, NUM_BINS), method="lower"))
    if len(values) < 2:
        return values.astype(np.float32)
    return ((values[1:] + values[:-1]) / 2).astype(np.float32)


@jit_inlined
def _histogram(binned: Any, rows: Any, columns: Any, grad: Any, hess: Any) -> Any:
    """Return sums of gradient, hessian and rows by column and bin."""
    sums = np.zeros((columns.size, NUM_BINS, 3))
    for f in range(columns.size):
        column = binned[columns[f]]
        for r in rows:
            b = column[r]
            sums[f, b, 0] += grad[r]
            sums[f, b, 1] += hess[r]
            sums[f, b, 2] += 1
    return sums


@jit_inlined
def _best_split(sums: Any) -> Any:
    """Return gain, feature and bin of the best split."""
    best, feature, cut = 1e-6, -1, 0
    total_g, total_h, total_n = sums[0, :, 0].sum(), sums[0, :, 1].sum(), sums[0, :, 2].sum()
    whole = total_g * total_g / (total_h + L2)
    for f in range(sums.shape[0]):
        g = h = n = 0.0
        for b in range(NUM_BINS - 1):
            g += sums[f, b, 0]
            h += sums[f, b, 1]
            n += sums[f, b, 2]
            if n < MIN_ROWS or total_n - n < MIN_ROWS:
                continue
            gain = g * g / (h + L2) + (total_g - g) ** 2 / (total_h - h + L2) - whole
            if gain > best:
                best, feature, cut = gain, f, b
    return best, feature, cut


@jit_inlined
def _grow(binned: Any, rows: Any, columns: Any, grad: Any, hess: Any, tree: Any) -> Any:
    """Fill the tree's rows (feature, bin, left child or 0, value); return their number."""
    leaves, sums, splits, where = [rows], [_histogram(binned, rows, columns, grad, hess)], [(0.0, 0, 0)], [0]
    splits[0], depths = _best_split(sums[0]), [0]
    size = 1
    for _ in range(NUM_LEAVES - 1):
        k = 0
        for j in range(len(leaves)):
            if splits[j][0] > splits[k][0]:
                k = j
        _gain, feature, cut = splits[k]
        if feature < 0:
            break
        goes_left = binned[columns[feature]][leaves[k]] <= cut
        left, right = leaves[k][goes_left], leaves[k][~goes_left]
        small = _histogram(binned, left if left.size < right.size else right, columns, grad, hess)
        other = sums[k] - small
        at = where[k]
        tree[at, 0], tree[at, 1], tree[at, 2] = columns[feature], cut, size
        leaves[k], where[k] = left, size
        sums[k] = small if left.size < right.size else other
        depths[k] += 1
        depths.append(depths[k])
        leaves.append(right)
        where.append(size + 1)
        sums.append(other if left.size < right.size else small)
        splits[k] = _best_split(sums[k]) if depths[k] < DEPTH else (0.0, -1, 0)
        splits.append(_best_split(sums[-1]) if depths[k] < DEPTH else (0.0, -1, 0))
        size += 2
    for k in range(len(leaves)):
        tree[where[k], 3] = RATE * sums[k][0, :, 0].sum() / (sums[k][0, :, 1].sum() + L2)
    return size


@jit_inlined
def _add(binned: Any, tree: Any, score: Any) -> None:
    for r in range(score.size):
        at = 0
        while tree[at, 2] > 0:
            at = int(tree[at, 2]) + (0 if binned[int(tree[at, 0]), r] <= tree[at, 1] else 1)
        score[r] += tree[at, 3]
