"""A vector index divided by inverted lists: a rank holds whole lists, and only those that own a probed list are asked.

Files stay as they were built, by documents; ranks take their lists out of all of them when they are loaded, one file
in memory at a time. What is found is the same. L lists, D dimensions, Q queries, P probed.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from rag_hpc.algo.rank.topk import Hits
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search.indexes import centroids_of, join
from rag_hpc.stores.shards import Kind, load_shards

_BLOCK = 8  # lists that are not ordered any further
_ROUNDS = 8  # of the power method: a rough direction will do


class Division(enum.Enum):
    """What ranks hold of a vector index: part of the documents, or part of the inverted lists."""

    documents = "documents"
    lists = "lists"


def check_division(division: Division, kind: Kind) -> None:
    """Raise ConfigError for a kind that has no lists to divide by."""
    if division is Division.lists and not kind.has_lists:
        raise ConfigError(
            f"stage.retrieve.divided_by=lists: an index of kind {kind.value} has no inverted lists; set "
            "stage.retrieve.divided_by=documents, or stage.vectors.index=ivf_fp16"
        )


def load_own(built: Manifest, comm: Comm) -> tuple[list[Any], I64]:
    """Return an index of this rank's lists, the others empty, as few parts as may be, and each list's owner."""
    positions = range(len(built.units))
    parts = [load_shards(built, [position])[0] for position in positions[comm.rank :: comm.world_size]]
    num_lists = int(comm.broadcast(np.array([parts[0].nlist if comm.rank == 0 else 0]))[0])
    sizes_L = comm.sum(np.sum([np.zeros(num_lists, np.int64), *map(_sizes, parts)], axis=0))
    centroids_LD = centroids_of(parts[0]) if comm.rank == 0 else None
    owners = None if centroids_LD is None else owners_of(centroids_LD, sizes_L, comm.world_size)
    del parts
    owners_L: I64 = comm.broadcast(owners)
    joined: list[Any] = []
    for position in positions:
        join(joined, _only(load_shards(built, [position])[0], owners_L == comm.rank))
    return joined, owners_L


def owners_of(centroids_LD: F32, sizes_L: I64, num_ranks: int) -> I64:
    """Return the rank that owns each list: near lists have one owner, and owners about equally many rows.

    Lists are halved along their widest direction until few are left, and the order that this gives is cut by rows.
    """
    blocks, order = [np.arange(len(centroids_LD))], []
    while blocks:
        block = blocks.pop()
        if len(block) <= _BLOCK:
            order.append(block)
            continue
        block = block[np.argsort(_along_widest(centroids_LD[block]), kind="stable")]
        blocks += [block[len(block) // 2 :], block[: len(block) // 2]]
    ordered = np.concatenate(order)
    weights = sizes_L[ordered] + 1  # of empty lists too, so that a cut falls among them
    middles = np.cumsum(weights) - weights / 2
    owners_L = np.empty(len(centroids_LD), dtype=np.int64)
    owners_L[ordered] = (middles * num_ranks / weights.sum()).astype(np.int64)
    return owners_L


def own_probes(probes: Hits, owners_L: I64, rank: int) -> tuple[I64, Hits]:
    """Return the queries that ask this rank, rising, and which of its lists they probe: first in the row, -1 behind."""
    near_QP, lists_QP = probes
    mine_QP = (lists_QP >= 0) & (owners_L[lists_QP] == rank)
    asking = np.flatnonzero(mine_QP.any(axis=1))
    mine_QP = mine_QP[asking]
    first = np.argsort(~mine_QP, axis=1, kind="stable")[:, : int(mine_QP.sum(axis=1).max(initial=0))]
    lists = np.where(mine_QP, lists_QP[asking], -1)
    return asking, (np.take_along_axis(near_QP[asking], first, 1), np.take_along_axis(lists, first, 1))


def shards_asked(lists_QP: I64, owners_L: I64, num_ranks: int) -> float:
    """Return how many ranks a query asks, on the average."""
    asked_QR = np.zeros((len(lists_QP), num_ranks), dtype=bool)
    queries, places = np.nonzero(lists_QP >= 0)
    asked_QR[queries, owners_L[lists_QP[queries, places]]] = True
    return float(asked_QR.sum(axis=1).mean()) if len(asked_QR) else 0.0


def _sizes(index: Any) -> I64:
    return np.array([index.invlists.list_size(number) for number in range(index.nlist)], dtype=np.int64)


def _only(index: Any, mine_L: Array) -> Any:
    """Return the index without the other lists, in no more memory than what is left of it takes."""
    import faiss

    for number in np.flatnonzero(~mine_L).tolist():
        index.invlists.resize(number, 0)
    index.ntotal = int(_sizes(index).sum())
    return faiss.deserialize_index(faiss.serialize_index(index))


def _along_widest(rows_LD: F32) -> F32:
    """Return each row's place along a direction in which they lie far apart."""
    centred_LD = rows_LD - rows_LD.mean(axis=0)
    direction_D = centred_LD[np.einsum("ld,ld->l", centred_LD, centred_LD).argmax()]
    for _ in range(_ROUNDS):
        direction_D = centred_LD.T @ (centred_LD @ direction_D)
        direction_D = direction_D / max(float(np.linalg.norm(direction_D)), 1e-30)
    along_L: F32 = centred_LD @ direction_D
    return along_L
