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


@jit_inlined
def probability(trees: Any, x_BF: Any) -> Any:
    """Return the estimate for each row, rounded so that the last bit of a library's exp() does not show.

    DEPTH steps for every row, leaf or not: without branches, rows overlap in the processor.
    """
    score_B = np.full(x_BF.shape[0], trees.bias)
    for root in trees.roots:
        for i in range(x_BF.shape[0]):
            at = np.uint64(root)
            for _ in range(DEPTH):
                at = np.uint64(trees.left[at]) + np.uint64(x_BF[i, trees.feature[at]] > trees.threshold[at])
            score_B[i] += trees.value[at]
    for i in range(score_B.size):
        score_B[i] = np.round(_STEPS / (1.0 + np.exp(-score_B[i]))) / _STEPS
    return score_B
