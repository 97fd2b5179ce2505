"""Boosted trees over block features: evaluation only; eval/bench/extract/trees.py grows them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rag_hpc.algo.jit import jit_inlined
from rag_hpc.algo.types import F32, U16

DEPTH = 4  # steps from a root to any leaf, at most
_STEPS = 4096.0


class Trees(NamedTuple):
    """Nodes of all trees in a row: right child after left one; a leaf is its own left child, its threshold infinite."""

    feature: U16
    threshold: F32
    left: U16
    value: F32
    roots: U16
    bias: float


def probability(trees: Trees, x_BF: Any) -> Any:
    """Return the estimate for each row, rounded so that the last bit of a library's exp() does not show.

    Quickest with features that lie together by column, as in the transpose of an array of (F, B).
    """
    return _folded(trees, np.ascontiguousarray(x_BF.T))


@jit_inlined
def _folded(trees: Any, x_FB: Any) -> Any:
    """Return the estimates; each tree is folded from its leaves up, for all rows at once and without branches."""
    num = x_FB.shape[1]
    score_B, value_NB = np.full(num, trees.bias), np.empty((2 << DEPTH, num), np.float32)
    for k in range(trees.roots.size):
        root = np.int64(trees.roots[k])
        end = np.int64(trees.roots[k + 1]) if k + 1 < trees.roots.size else trees.feature.size
        for node in range(end - 1, root - 1, -1):
            left = np.int64(trees.left[node])
            if left == node:
                value_NB[node - root] = trees.value[node]
            else:
                x_B, limit = x_FB[trees.feature[node]], trees.threshold[node]
                _choose(x_B, limit, value_NB[left - root], value_NB[left - root + 1], value_NB[node - root])
        for i in range(num):
            score_B[i] += value_NB[0, i]
    for i in range(num):
        score_B[i] = np.round(_STEPS / (1.0 + np.exp(-score_B[i]))) / _STEPS
    return score_B


@jit_inlined
def _choose(x_B: Any, limit: Any, low_B: Any, high_B: Any, out_B: Any) -> None:
    for i in range(out_B.size):
        low, high = low_B[i], high_B[i]  # both are read: no branch
        out_B[i] = high if x_B[i] > limit else low
