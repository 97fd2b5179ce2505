"""The least effort with which a whole index finds enough, chosen on some questions to be judged by others.

Q queries, K hits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rag_hpc.algo.types import F32
from rag_hpc.core.comm import Comm
from rag_hpc.search.ann import Ann, merged
from rag_hpc.search.recall import EF_SEARCHES, probes, share_found
from rag_hpc.stores.shards import Effort, Kind

LEAST_CHOOSING = 64  # questions; of fewer the interval is as wide as what may be missed
_SHORTLISTS = (100, 150, 200, 300, 400, 600, 800, 1200, 1600)
_SURE = 1.96 * math.sqrt(2)  # standard errors that the means of two halves are apart in one of twenty cases
# What a hit of the shortlist costs in rows of a list: 180 ns to 3.4 with FastScan, to 24 and more of other codes
_ROWS_A_HIT = {Kind.ivf_pq_fastscan: 50, Kind.ivf_rabitq: 7, Kind.ivf_sq8: 7, Kind.ivf_pq: 7}


def open_numbers(kind: Kind, given: Effort) -> list[str]:
    """Return which numbers of an effort the kind has a use for and nobody set."""
    used = {"num_probes": kind.has_lists, "shortlist": kind.has_codes, "ef_search": kind is Kind.hnsw}
    return [name for name, is_used in used.items() if is_used and not getattr(given, name)]


def least_effort(
    index: Ann, queries_QD: F32, truth_QK: F32, depth: int, min_recall: float, given: Effort, comm: Comm
) -> Effort:
    """Return the least effort whose recall of the K best rows is above `min_recall` by so much that other questions'
    will be too; the most that there is where none is enough. It is the same on every rank.

    It misses half of what it may at the most. truth_QK: scores of the K best, of use on rank 0. depth: hits that a
    search asks for, K or more. given: numbers that, where not 0, stay. What costs less is told by counts of rows and
    not by the clock, which would choose differently each time.
    """
    kind = index.effort.kind
    asked, a_hit = open_numbers(kind, given), _ROWS_A_HIT.get(kind, 0)
    num_lists = int(comm.broadcast(np.array([index.num_lists]))[0])  # a rank may hold no shard
    rows_a_list = int(comm.sum(np.array([index.num_rows]))[0]) / max(1, num_lists)

    def suffices(effort: Effort) -> bool:
        index.effort = effort
        found = merged(index.search(queries_QD, depth), comm)
        enough = found is not None and _is_enough(found[0], truth_QK, min_recall)
        return bool(comm.broadcast(np.array([enough], dtype=np.uint8))[0])

    if "ef_search" in asked:
        walks = [replace(index.effort, ef_search=ef) for ef in EF_SEARCHES if ef > depth or ef == EF_SEARCHES[-1]]
        return walks[_first(walks, suffices)]
    kept = [index.effort.shortlist]
    if "shortlist" in asked:
        kept = [depth, *(length for length in _SHORTLISTS if length > depth)]
    probed = list(probes(num_lists)) if "num_probes" in asked else [index.effort.num_probes]
    best: Effort | None = None
    for shortlist in reversed(kept):  # a shorter one needs as many lists or more
        tried = [replace(index.effort, num_probes=number, shortlist=shortlist) for number in probed]
        at = _first(tried, suffices)
        if best is not None and at == len(tried) - 1 and not suffices(tried[at]):
            break
        cost = tried[at].num_probes * rows_a_list + shortlist * a_hit
        if best is None or cost < best.num_probes * rows_a_list + best.shortlist * a_hit:
            best = tried[at]
        probed = probed[at:]
    assert best is not None
    return best


def _is_enough(scores_QK: F32, truth_QK: F32, min_recall: float) -> bool:
    share_Q = share_found(scores_QK, truth_QK, truth_QK.shape[1])
    error = float(share_Q.std(ddof=1)) / math.sqrt(len(share_Q)) if len(share_Q) > 1 else 0.0
    mean = float(share_Q.mean())
    return mean - _SURE * error >= min_recall and mean >= (1 + min_recall) / 2  # half of the misses that are allowed


def _first(tried: list[Effort], suffices: Callable[[Effort], bool]) -> int:
    """Return the place of the first that suffices, of rising ones; of the last where none does, which is not tried."""
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(tried[middle]) else (middle + 1, high)
    return low
