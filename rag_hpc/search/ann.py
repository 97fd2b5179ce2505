"""Approximate search over ranks: shortlists by code score are cut over all shards first, and only then ranked exactly.

Refining inside each shard would let a shard's own shortlist decide: with product quantization a tenth of the top tens
changed with the number of shards. Q queries, R shortlisted, D dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rag_hpc.algo.rank.topk import Hits, longest, merge_topk, nothing, rescore
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.search.indexes import Shards, alone, ids_of
from rag_hpc.search.lists import Division, check_division, load_own, own_probes, shards_asked
from rag_hpc.search.shards import num_threads
from rag_hpc.stores.shards import EFFORT_NUMBERS, Effort, effort_of, load_shards

_LEAST = 8  # queries that a thread is begun for


class Ann:
    """This rank's shards of a vector index. Every rank must make the same calls."""

    def __init__(
        self,
        built: Manifest,
        rows_ND: Array,
        first: int,
        comm: Comm,
        wanted: Effort | None = None,
        division: Division = Division.documents,
    ) -> None:
        """rows_ND: float16, the rank's slice of all vectors, whose first ordinal is `first`; any division will do.
        wanted: numbers that, where not 0, are taken instead of those that the index was checked with."""
        self._rows_ND, self._first, self._comm = rows_ND, first, comm
        self._longest = longest(rows_ND)
        self._effort = _joined(effort_of(built) or Effort(), wanted)
        check_division(division, self._effort.kind)
        self._owners_L: I64 | None = None
        self.shards_asked: float | None = None  # by a query of the last batch, where ranks hold lists
        held: list[I64 | None] = [None]
        if division is Division.lists and comm.world_size > 1:
            own, self._owners_L = load_own(built, comm)
            groups = [own]
        else:
            loaded = load_shards(built, range(comm.rank, len(built.units), comm.world_size))
            groups = [loaded]
            if built.config.get("partition_by"):
                groups, held = [[one] for one in loaded], [ids_of(one) for one in loaded]
        self._parts = [(Shards(group, self._effort), ids) for group, ids in zip(groups, held, strict=True)]
        self._threads = num_threads()
        self._pool = ThreadPoolExecutor(self._threads, initializer=alone)

    @property
    def effort(self) -> Effort:
        """How hard a query searches; of every rank the same."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._effort = effort
        for shards, _ in self._parts:
            shards.effort = effort

    @property
    def num_lists(self) -> int:
        """The inverted lists, on a rank that holds a shard of a kind that has them; else 0."""
        return max((shards.num_lists for shards, _ in self._parts), default=0)

    @property
    def num_held(self) -> int:
        """The rows in this rank's part of the index."""
        return sum(shards.num_held for shards, _ in self._parts)

    @property
    def num_rows(self) -> int:
        """The rows that this rank ranks exactly."""
        return len(self._rows_ND)

    def search(self, queries_QD: F32, depth: int, allowed_N: Array | None = None) -> Hits:
        """Return this rank's part of the `depth` best hits by (score, id): those of its rows; ranks' parts are to be
        merged. allowed_N: of each ordinal whether it may be found."""
        num = max(depth, self.effort.shortlist)
        asked = [shards for shards, held in self._parts if allowed_N is None or held is None or allowed_N[held].any()]

        def coded(part_QD: F32) -> Hits:
            found = [shards.shortlist(part_QD, num, allowed_N) for shards in asked]
            return merge_topk(found, num) if len(found) > 1 else found[0] if found else nothing(len(part_QD), num)

        def coded_of(part_QD: F32, near_QP: F32, lists_QP: I64) -> Hits:
            return self._parts[0][0].shortlist(part_QD, num, allowed_N, (near_QP, lists_QP))

        if self._owners_L is None:
            local = self._in_threads(coded, queries_QD)
        else:
            local = nothing(len(queries_QD), num)
            probes = self._choose_together(queries_QD)
            self.shards_asked = shards_asked(probes[1], self._owners_L, self._comm.world_size)
            asking, own = own_probes(probes, self._owners_L, self._comm.rank)
            if len(asking):
                local[0][asking], local[1][asking] = self._in_threads(coded_of, queries_QD[asking], *own)
        ids_QR = cut(local, self._comm)

        def scored(part_QD: F32, part_QR: Array) -> Hits:
            return rescore(part_QD, self._rows_ND, part_QR, depth, first_id=self._first, longest_row=self._longest)

        return self._in_threads(scored, queries_QD, ids_QR)

    def _choose_together(self, queries_QD: F32) -> Hits:
        """Return the lists that queries probe, with their scores: each rank chooses for a part of the queries, and rank
        0 for those whose rank says nothing."""
        shards = self._parts[0][0]
        num, each = shards.num_probes, max(_LEAST, -(-len(queries_QD) // self._comm.world_size))
        chosen = np.full((len(queries_QD), 2 * num), -1, dtype=np.int32)

        def choose(part: Array) -> None:
            if len(part):
                near, lists = self._in_threads(shards.choose_lists, np.ascontiguousarray(queries_QD[part]))
                chosen[part, :num], chosen[part, num:] = near.view(np.int32), lists

        choose(np.arange(len(queries_QD))[self._comm.rank * each :][:each])
        joined = self._comm.fold(chosen, lambda left, right: np.where(left[:, -1:] < 0, right, left))
        if joined is not None:
            chosen = np.array(joined)
            choose(np.flatnonzero(chosen[:, -1] < 0))
        chosen = self._comm.broadcast(None if joined is None else chosen)
        return np.ascontiguousarray(chosen[:, :num]).view(np.float32), chosen[:, num:].astype(np.int64)

    def _in_threads(self, work: Callable[..., Hits], *arrays: Array) -> Hits:
        """Return the hits of a batch, parts of which are searched at once: no query's hits depend on others."""
        num = min(self._threads, len(arrays[0]) // _LEAST)
        if num < 2:
            return work(*arrays)
        parts = zip(*(np.array_split(array, num) for array in arrays), strict=True)
        found = list(self._pool.map(lambda part: work(*part), parts))
        return np.concatenate([scores for scores, _ in found]), np.concatenate([ids for _, ids in found])


def cut(local: Hits, comm: Comm) -> Array:
    """Return on every rank the ids of the best hits over all ranks, as many as each rank gives."""
    if comm.world_size == 1:
        return local[1]
    best = merged(local, comm)
    return comm.broadcast(None if best is None else best[1])


def merged(local: Hits, comm: Comm) -> Hits | None:
    """Return on rank 0 the best hits over all ranks, as many as each rank gives; None elsewhere."""
    num = local[1].shape[1]

    def join(left: Array, right: Array) -> Array:
        return _packed(merge_topk([_unpacked(left, num), _unpacked(right, num)], num))

    best = comm.fold(_packed(local), join)
    return None if best is None else _unpacked(best, num)


def _packed(hits: Hits) -> Array:
    """Return hits as one array [Q, 3 K] of int32: scores, then ids."""
    scores, ids = (np.ascontiguousarray(part).view(np.int32) for part in hits)
    return np.concatenate([scores, ids], axis=1)


def _unpacked(packed: Array, num: int) -> Hits:
    scores, ids = (np.ascontiguousarray(part) for part in (packed[:, :num], packed[:, num:]))
    return scores.view(np.float32), ids.view(np.int64)


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
    return dataclasses.replace(checked, **{n: getattr(wanted, n) for n in EFFORT_NUMBERS if getattr(wanted, n)})


def slice_of(num_rows: int, comm: Comm) -> tuple[int, int]:
    """Return which rows a rank holds for exact scores."""
    edges = np.linspace(0, num_rows, comm.world_size + 1).astype(np.int64)
    return int(edges[comm.rank]), int(edges[comm.rank + 1])
