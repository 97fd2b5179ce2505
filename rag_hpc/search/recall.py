"""How much of exact search an index finds, and the least effort that finds enough.

Q queries, N rows, D dimensions, L lists.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rag_hpc.algo.rank.topk import exact_topk, longest, rescore
from rag_hpc.algo.types import F32, F64, I64, U8, Array
from rag_hpc.core.comm import Comm
from rag_hpc.search import indexes
from rag_hpc.search.ann import Ann, merged
from rag_hpc.stores.shards import Effort, Kind

TUNING_QUERIES, MOST_QUERIES = 256, 1000
NOISE = 4.0
DEPTHS = (10, 100)
_RESAMPLES, _DRAWN = 2000, 4_000_000  # of queries at once: 32 MiB
_GRAPH_ROWS = 16384  # of a sample; a graph of more takes minutes
_SHORTLISTS = (100, 200, 400, 800, 1600)
EF_SEARCHES = (16, 32, 64, 128, 256, 512, 1024)


class Rows(Protocol):
    """Vectors by their ordinal."""

    def __len__(self) -> int: ...

    def take(self, ordinals: Array) -> Array:
        """Return the rows with these ordinals, which are ascending."""


@dataclass(frozen=True)
class Recall:
    """Mean recall over queries, and its 95 percent interval by resampling them (Efron and Tibshirani 1993)."""

    name: str  # recall@10
    num: int
    mean: float
    low: float
    high: float

    def value(self) -> dict[str, float]:
        """Return the figures for a file."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def figures(self) -> dict[str, float]:
        """Return the figures for a manifest."""
        return {self.name: self.mean, f"{self.name}.low": self.low, f"{self.name}.high": self.high}


def of_queries(name: str, recall_Q: F64) -> Recall:
    """Return the mean of the queries' recalls."""
    rng, num = np.random.default_rng(0), len(recall_Q)
    at_once = max(1, min(_RESAMPLES, _DRAWN // num))
    means = [recall_Q[rng.integers(num, size=(at_once, num))].mean(1) for _ in range(-(-_RESAMPLES // at_once))]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Recall(name, len(recall_Q), *(round(float(x), 6) for x in (recall_Q.mean(), low, high)))


def truth_of(queries_QD: F32, own: tuple[Array, int], comm: Comm) -> F32:
    """Return on rank 0 the scores of each query's best rows by exact search, [Q, 0] elsewhere: as many as are asked
    for at the deepest, or as there are. own: the rank's rows, and the first's id."""
    rows_ND, first = own
    exact = merged(exact_topk(queries_QD, rows_ND, max(DEPTHS), first_id=first), comm)
    if exact is None:
        return np.empty((len(queries_QD), 0), dtype=np.float32)
    scores_QK, ids_QK = exact
    return scores_QK[:, : int((ids_QK >= 0).sum(1).max())]


def compare(index: Ann, queries_QD: F32, truth_QK: F32, comm: Comm) -> list[Recall]:
    """Return the recall of a sharded index on rank 0, nothing elsewhere. truth_QK: as `truth_of` returns it.

    By score, not by id: of equal passages (a licence text in each document) any is as good as another.
    """
    found = merged(index.search(queries_QD, max(DEPTHS)), comm)
    if found is None:
        return []
    most = truth_QK.shape[1]
    return [of_queries(f"recall@{k}", share_found(found[0], truth_QK, min(k, most))) for k in DEPTHS]


def share_found(scores_QK: F32, truth_QK: F32, k: int) -> F64:
    """Return for each query the share of its k best places that hold a hit as good as the true k-th."""
    share_Q: F64 = (scores_QK[:, :k] >= truth_QK[:, k - 1 : k]).mean(1)
    return share_Q


def noisy_copies(rows: Rows, seed: int, most: int = TUNING_QUERIES) -> F32:
    """Return distant copies of some rows, other rows for another seed.

    A question lies in another direction than passages do and needs more lists than a passage would: on the demo's
    questions, recall at equal probes was that of copies with noise of 4 times a unit vector's length.
    """
    step = max(1, len(rows) // most)
    chosen = np.arange(seed % step, len(rows), step)
    rows_QD = rows.take(chosen).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal(rows_QD.shape, dtype=np.float32)
    return rows_QD + noise * np.float32(NOISE / math.sqrt(rows_QD.shape[1]))


def enough(wanted: Effort, centroids_LD: F32, coded: U8 | None, rows_ND: Array, recall: float) -> Effort:
    """Return the effort with each number that is 0 made the least that gives the recall@10 on a sample of
    float16 rows.

    Lists first, by exact scores; then the shortlist at so many lists. What is never reached is the most that was tried.
    """
    if wanted.kind is Kind.flat:
        return wanted
    if wanted.kind is Kind.hnsw:
        rows_ND = rows_ND[:: -(-len(rows_ND) // _GRAPH_ROWS)]
    trial = _Trial(rows_ND)
    if wanted.kind is Kind.hnsw:
        return (
            wanted
            if wanted.ef_search
            else trial.least(wanted, trial.filled(wanted.kind, centroids_LD), recall, EF_SEARCHES)
        )
    if not wanted.num_probes:
        exact = trial.filled(Kind.ivf_fp16, centroids_LD)
        probed = trial.least(Effort(), exact, recall, list(probes(len(centroids_LD))))
        wanted = dataclasses.replace(wanted, num_probes=probed.num_probes)
    if coded is not None and not wanted.shortlist:
        wanted = trial.least(wanted, trial.filled(wanted.kind, coded), recall, _SHORTLISTS)
    return wanted


class _Trial:
    """A sample that is searched by itself."""

    def __init__(self, rows_ND: Array) -> None:
        self._rows_ND = rows_ND
        self._queries_QD = noisy_copies(_Array(rows_ND), seed=0)
        self._k = min(10, len(rows_ND))
        self._truth = exact_topk(self._queries_QD, rows_ND, self._k)[0]

    @cached_property
    def _longest(self) -> float:
        return longest(self._rows_ND)

    def filled(self, kind: Kind, trained: Array) -> Any:
        """Return an index of the sample."""
        index = indexes.empty_index(kind, trained)
        indexes.add(index, self._rows_ND, np.arange(len(self._rows_ND), dtype=np.int64))
        return index

    def least(self, effort: Effort, index: Any, recall: float, numbers: Any) -> Effort:
        """Return the effort with the first number that reaches the recall."""
        name = "ef_search" if effort.kind is Kind.hnsw else "shortlist" if effort.num_probes else "num_probes"
        for number in numbers:
            effort = dataclasses.replace(effort, **{name: number})
            if self._recall(index, effort) >= recall:
                break
        return effort

    def _recall(self, index: Any, effort: Effort) -> float:
        ids_QR = indexes.Shards([index], effort).shortlist(self._queries_QD, max(self._k, effort.shortlist))[1]
        longest_row = self._longest if effort.shortlist else None
        scores = rescore(self._queries_QD, self._rows_ND, ids_QR, self._k, longest_row=longest_row)[0]
        return float(share_found(scores, self._truth, self._k).mean())


@dataclass(frozen=True)
class _Array:
    """An array as Rows."""

    rows_ND: Array

    def __len__(self) -> int:
        return len(self.rows_ND)

    def take(self, ordinals: I64) -> Array:
        """Return rows."""
        taken: Array = self.rows_ND[ordinals]
        return taken


def probes(num_lists: int) -> Iterator[int]:
    """Yield numbers of lists, each a fifth more than the one before."""
    number = 1
    while number < num_lists:
        yield number
        number = max(number + 1, number * 6 // 5)
    yield num_lists
