"""Approximate search over ranks: shortlists by code score are cut over all shards first, and only then ranked exactly.

Refining inside each shard would let a shard's own shortlist decide: with product quantization a tenth of the top tens
changed with the number of shards. Q queries, R shortlisted, D dimensions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rag_hpc.algo.rank.topk import Hits, longest, merge_topk, rescore
from rag_hpc.algo.types import F32, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.search.indexes import Shards
from rag_hpc.stores.shards import Effort, effort_of, load_shards


class Ann:
    """This rank's shards of a vector index. Every rank must make the same calls."""

    def __init__(self, built: Manifest, rows_ND: Array, first: int, comm: Comm, wanted: Effort | None = None) -> None:
        """rows_ND: float16, the rank's slice of all vectors, whose first ordinal is `first`; any division will do.
        wanted: numbers that, where not 0, are taken instead of those that the index was checked with."""
        self._rows_ND, self._first, self._comm = rows_ND, first, comm
        self.effort = _joined(effort_of(built) or Effort(), wanted)
        self._longest = longest(rows_ND) if self.effort.shortlist else None
        mine = range(comm.rank, len(built.units), comm.world_size)
        self._shards = Shards(load_shards(built, mine), self.effort)

    def search(self, queries_QD: F32, depth: int) -> Hits:
        """Return this rank's part of the `depth` best hits by (score, id): those of its rows; ranks' parts are to be
        merged."""
        num = max(depth, self.effort.shortlist)
        ids_QR = cut(self._shards.shortlist(queries_QD, num), self._comm)
        return rescore(queries_QD, self._rows_ND, ids_QR, depth, first_id=self._first, longest_row=self._longest)


def cut(local: Hits, comm: Comm) -> Array:
    """Return on every rank the ids of the best hits over all ranks, as many as each rank gives."""
    parts = gathered(local, comm)
    best = merge_topk(parts, local[1].shape[1])[1] if parts else None
    return comm.broadcast(best)


def gathered(local: Hits, comm: Comm) -> list[Hits]:
    """Return each rank's hits on rank 0, nothing elsewhere."""
    scores, ids = comm.gather_rows(local[0]), comm.gather_rows(local[1])
    if scores is None or ids is None:
        return []
    shape = (comm.world_size, -1, scores.shape[1])
    return list(zip(scores.reshape(shape), ids.reshape(shape), strict=True))


def _joined(checked: Effort, wanted: Effort | None) -> Effort:
    if wanted is None:
        return checked
    numbers = ("num_probes", "shortlist", "ef_search")
    return dataclasses.replace(checked, **{n: getattr(wanted, n) for n in numbers if getattr(wanted, n)})


def slice_of(num_rows: int, comm: Comm) -> tuple[int, int]:
    """Return which rows a rank holds for exact scores."""
    edges = np.linspace(0, num_rows, comm.world_size + 1).astype(np.int64)
    return int(edges[comm.rank]), int(edges[comm.rank + 1])
