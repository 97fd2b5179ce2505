"""Connected components over integer ids. Shapes: N nodes, P pairs, M ids that occur in a part."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from rag_hpc.errors import InputError

I64 = npt.NDArray[np.int64]


def components(pairs_P2: I64, num_nodes: int) -> I64:
    """Return labels_N: the smallest member id of each node's component, whatever the order of the pairs.

    Raises InputError for an id outside 0..num_nodes-1.
    """
    parent_N = np.arange(num_nodes, dtype=np.int64)
    _check_ids(pairs_P2, num_nodes)
    return _union(parent_N, pairs_P2)


def partial_labels(pairs_P2: I64) -> tuple[I64, I64]:
    """Return (ids_M, labels_M) of the ids that occur in the pairs: sorted ids and their components' smallest ids.

    Memory is that of the pairs, not of the whole id range: what a part of the pairs hands to `merge_labels`.
    """
    ids_M, inverse = np.unique(pairs_P2, return_inverse=True)
    local = components(inverse.reshape(-1, 2).astype(np.int64), len(ids_M))
    return ids_M, ids_M[local]


def merge_labels(parts: Iterable[tuple[I64, I64]], num_nodes: int) -> I64:
    """Return labels_N of the union of the parts' label maps (ids_M, labels_M), as if all pairs had come at once.

    Parts are taken one by one and in any order: memory is num_nodes labels plus one part.
    Raises InputError for an id outside 0..num_nodes-1.
    """
    labels_N = np.arange(num_nodes, dtype=np.int64)
    for ids_M, labels_M in parts:
        edges = np.stack([ids_M, labels_M], axis=1).astype(np.int64)
        _check_ids(edges, num_nodes)
        labels_N = _union(labels_N, edges)
    return labels_N


def _union(parent_N: I64, pairs_P2: I64) -> I64:
    """Return flat labels after joining the pairs: union-find over whole arrays.

    A round hooks the larger root of every still open pair below the smaller one, then halves all paths until they
    are flat. A parent is never larger than its child, so there are no cycles and the root is the smallest member.
    """
    a, b = pairs_P2[:, 0], pairs_P2[:, 1]
    while len(a):
        root_a, root_b = parent_N[a], parent_N[b]
        is_open = root_a != root_b
        a, b = root_a[is_open], root_b[is_open]
        np.minimum.at(parent_N, np.maximum(a, b), np.minimum(a, b))
        _halve_paths(parent_N)
    return parent_N


def _halve_paths(parent_N: I64) -> None:
    while True:
        grand_N = parent_N[parent_N]
        if np.array_equal(grand_N, parent_N):
            return
        parent_N[:] = grand_N


def _check_ids(pairs_P2: I64, num_nodes: int) -> None:
    if len(pairs_P2) and (int(pairs_P2.min()) < 0 or int(pairs_P2.max()) >= num_nodes):
        raise InputError(
            f"components: ids run from {int(pairs_P2.min())} to {int(pairs_P2.max())} but there are {num_nodes} nodes;"
            " were pairs and documents read from the same run?"
        )
