"""What a worker does of a batch where the index is divided by lists: its part of their choice, and lists of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.eval.bench.vectors.costs import BATCH, DEPTH, PROBES, PS, Costs
from rag_hpc.search import indexes
from rag_hpc.search.lists import own_probes, owners_of, shards_asked
from rag_hpc.stores.shards import Effort, Kind

CHOSEN_BYTES = 8 * PROBES * BATCH  # a float32 and an int32 of each
_LEAST = 8  # questions that a worker chooses lists for
_WORKERS = 4  # that are measured, spread over all
Timed = Callable[[Callable[[], object]], list[float]]


def divide(costs: Costs, rows: Array, queries: F32, centroids: F32, timed: Timed) -> tuple[Costs, dict[int, float]]:
    """Return the costs where workers hold lists, and how many workers a question asks at each p.

    costs: where they hold documents. timed: gives the seconds of each time that some work is done.
    """
    lists_N, empty = indexes.nearest(rows, centroids)[0], _index(rows[:0], np.empty(0, np.int64), centroids)
    batch = np.ascontiguousarray(queries[:BATCH])
    probes = empty.choose_lists(batch)
    sizes_L = np.bincount(lists_N, minlength=len(centroids))
    scan: dict[int, list[float]] = {}
    chosen: dict[int, float] = {}
    asked: dict[int, float] = {}
    for p in PS:
        owners_L = owners_of(centroids, sizes_L, p)
        asked[p] = shards_asked(probes[1], owners_L, p)
        part = batch[: max(_LEAST, -(-BATCH // p))]
        chosen[p] = float(np.median(timed(partial(empty.choose_lists, part))))
        scan[p] = []
        for worker in sorted({p * number // _WORKERS for number in range(_WORKERS)}):
            held_N = np.flatnonzero(owners_L[lists_N] == worker)
            shards = _index(rows[held_N], held_N, centroids)
            scan[p] += timed(partial(_scan, shards, batch, (probes[0], probes[1]), owners_L, worker))
    return replace(costs, lists_s=chosen, scan_s=scan, chosen_bytes=CHOSEN_BYTES), asked


def _scan(shards: indexes.Shards, batch: F32, probes: tuple[F32, I64], owners_L: I64, worker: int) -> None:
    asking, own = own_probes(probes, owners_L, worker)
    if len(asking):
        shards.shortlist(batch[asking], DEPTH, probes=own)


def _index(rows: Array, ids: Sequence[int] | I64, centroids: F32) -> indexes.Shards:
    index = indexes.empty_index(Kind.ivf_fp16, centroids)
    indexes.add(index, rows, np.asarray(ids, dtype=np.int64))
    return indexes.Shards([index], Effort(kind=Kind.ivf_fp16, num_probes=PROBES))
