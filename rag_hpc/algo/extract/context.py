"""Features of a first estimate around each block: what its neighbours, its kin and its containers were taken for."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.extract.features import NUM_LEVELS, chain, signatures
from rag_hpc.algo.extract.html_page import CHARS, NODE, PARENT, Page
from rag_hpc.algo.jit import jit_inlined

_REACH, _WINDOW, _MAX_CHARS, _FAR = 3, 5, 2000, 1000.0
_NAMES = ["p", *(f"p_{k:+d}" for k in (-3, -2, -1, 1, 2, 3)), "window", "window_chars", "siblings"]
_NAMES += [f"share_{level}" for level in range(NUM_LEVELS)] + [f"mass_{level}" for level in range(NUM_LEVELS)]
_NAMES += ["mass_before", "page_mass", "up", "down", "in_best", "alike", "since", "till", "page_max"]
NAMES = [f"guess_{name}" for name in _NAMES]
NUM_FEATURES = len(NAMES)
_AT_WINDOW = 1 + 2 * _REACH
_AT_SHARE = _AT_WINDOW + 3
_AT_PLACE = _AT_SHARE + 2 * NUM_LEVELS


def context_features(page: Page, p_B: Any) -> Any:
    """Return float32 of shape (B, F) in the order of NAMES; p_B: the probability that a block is main text."""
    return _features(page.nodes, page.blocks, p_B)


@jit_inlined
def _features(nodes_N: Any, blocks_B: Any, p_B: Any) -> Any:
    num = blocks_B.shape[0]
    z_BF = np.zeros((num, NUM_FEATURES), np.float32)
    chars_B = np.minimum(blocks_B[:, CHARS], _MAX_CHARS).astype(np.float64)
    sums_N2 = _sums(nodes_N, blocks_B, chars_B, p_B)
    best, total = 0, max(sums_N2[0, 1], 1e-3)
    for node in range(nodes_N.shape[0]):
        best = node if sums_N2[node, 1] >= 0.6 * total else best
    chain_N = chain(nodes_N, best)
    _fill_alike(signatures(nodes_N, blocks_B), chars_B, p_B, z_BF)
    _fill_order(chars_B, p_B, total, z_BF)
    for i in range(num):
        node, own = blocks_B[i, NODE], chars_B[i] * p_B[i]
        around = nodes_N[node, PARENT]
        _fill_window(chars_B, p_B, i, z_BF[i])
        z_BF[i, _AT_SHARE - 1] = (sums_N2[around, 1] - own) / max(sums_N2[around, 0] - chars_B[i], 1.0)
        _fill_tree(nodes_N, node, sums_N2, chain_N, z_BF[i])
    return z_BF


@jit_inlined
def _sums(nodes_N: Any, blocks_B: Any, chars_B: Any, p_B: Any) -> Any:
    """Return the characters under each node, and those of them that are expected to be main text."""
    sums_N2 = np.zeros((nodes_N.shape[0], 2), np.float64)
    for i in range(blocks_B.shape[0]):
        sums_N2[blocks_B[i, NODE], 0] += chars_B[i]
        sums_N2[blocks_B[i, NODE], 1] += chars_B[i] * p_B[i]
    for node in range(nodes_N.shape[0] - 1, 0, -1):
        sums_N2[nodes_N[node, PARENT], 0] += sums_N2[node, 0]
        sums_N2[nodes_N[node, PARENT], 1] += sums_N2[node, 1]
    return sums_N2


@jit_inlined
def _fill_alike(same_B: Any, chars_B: Any, p_B: Any, z_BF: Any) -> None:
    order, begin, num = np.argsort(same_B, kind="mergesort"), 0, same_B.size
    for k in range(1, num + 1):
        if k == num or same_B[order[k]] != same_B[order[begin]]:
            chars = mass = 0.0
            for j in range(begin, k):
                chars += chars_B[order[j]]
                mass += chars_B[order[j]] * p_B[order[j]]
            for j in range(begin, k):
                z_BF[order[j], _AT_PLACE + 5] = mass / chars
            begin = k


@jit_inlined
def _fill_order(chars_B: Any, p_B: Any, total: Any, z_BF: Any) -> None:
    before, since, till, num, top = 0.0, _FAR, _FAR, p_B.size, 0.0
    for p in p_B:
        top = max(top, p)
    for i in range(num):
        z = z_BF[i]
        z[0], z[_AT_PLACE], z[_AT_PLACE + 1], z[_AT_PLACE + 6] = p_B[i], before / total, total, since
        z[_AT_PLACE + 8] = top
        before += chars_B[i] * p_B[i]
        since = 0.0 if p_B[i] > 0.5 else since + 1
    for i in range(num - 1, -1, -1):
        z_BF[i, _AT_PLACE + 7] = till
        till = 0.0 if p_B[i] > 0.5 else till + 1


@jit_inlined
def _fill_window(chars_B: Any, p_B: Any, i: Any, z: Any) -> None:
    mean = chars = mass = 0.0
    for k in range(-_WINDOW, _WINDOW + 1):
        at = i + k
        if k == 0 or at < 0 or at >= p_B.size:
            continue
        if -_REACH <= k <= _REACH:
            z[_REACH + k + (1 if k < 0 else 0)] = p_B[at]
        weight = min(chars_B[at], 500.0)
        mean += p_B[at] / (2 * _WINDOW)
        chars += weight
        mass += weight * p_B[at]
    z[_AT_WINDOW], z[_AT_WINDOW + 1] = mean, mass / max(chars, 1.0)


@jit_inlined
def _fill_tree(nodes_N: Any, node: Any, sums_N2: Any, chain_N: Any, z: Any) -> None:
    total, up, at = max(sums_N2[0, 1], 1e-3), 0, node
    for level in range(NUM_LEVELS):
        z[_AT_SHARE + level] = sums_N2[at, 1] / sums_N2[at, 0]
        z[_AT_SHARE + NUM_LEVELS + level] = sums_N2[at, 1] / total
        at = nodes_N[at, PARENT]
    while chain_N[node] < 0:
        node = nodes_N[node, PARENT]
        up += 1
    z[_AT_PLACE + 2], z[_AT_PLACE + 3], z[_AT_PLACE + 4] = up, chain_N[node], chain_N[node] == 0
