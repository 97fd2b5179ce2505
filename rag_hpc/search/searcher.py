"""Scatter-gather search over the shards that a rank holds: BM25, exact vectors, a vector index, and their fusion.

Q queries, K hits. Every method's hits are ordered by (score, ordinal), and no score depends on which rank holds which
shard; missing hits are (-inf, -1). With one rank it is the baseline's search.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.fusion import dense_weight, weighted_rows
from rag_hpc.algo.rank.rm3 import Rm3
from rag_hpc.algo.rank.topk import Hits, exact_topk, nothing
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search.ann import Ann, merged, slice_of
from rag_hpc.search.exact import UP_TO, Exact, resolved
from rag_hpc.search.feedback import Feedback
from rag_hpc.search.filters import check_filter
from rag_hpc.search.impacts import ImpactQuestions, holds_impacts
from rag_hpc.search.languages import indexed
from rag_hpc.search.lexical import Lexical
from rag_hpc.search.lists import Division, check_division
from rag_hpc.search.questions import FieldWeights, Questions, check_feedback, weights_of
from rag_hpc.stores.questions import FOUND_AGAIN
from rag_hpc.stores.shards import EFFORT_NUMBERS, Effort, effort_of
from rag_hpc.stores.vectors import VectorStore


@dataclass(kw_only=True)
class SearchSettings:
    """How a search ranks: the defaults of every search."""

    depth: int = 100  # hits kept of each method, and given to the fusion
    k1: float = 0.9
    b: float = 0.4
    fields: FieldWeights = field(default_factory=FieldWeights)
    rm3: Rm3 = field(default_factory=Rm3)  # widens queries by what they find first
    dense_weight: float | None = None  # in the fused ranking, BM25 has the rest; null = by query and encoder
    num_probes: int = 0  # of the inverted lists; 0 = as the vector index was checked with
    shortlist: int = 0  # hits by code score that exact scores rank; 0 = as checked
    ef_search: int = 0  # candidates of a graph's walk; 0 = as checked
    # what a rank holds of the vector index: documents, or lists, so that fewer ranks are asked; see search/lists.py
    divided_by: Division = field(default=Division.documents, metadata={"output": False})
    exact: Exact = Exact.auto  # which questions are searched exactly beside a vector index; see search/exact.py
    filter: str = ""  # which passages may be found, e.g. "lang == 'en'"; see search/filters.py

    def __post_init__(self) -> None:
        if self.depth < 1 or self.k1 < 0 or not 0 <= self.b <= 1:
            raise ConfigError("stage.retrieve: depth >= 1, k1 >= 0 and 0 <= b <= 1 are needed")
        if min(self.num_probes, self.shortlist, self.ef_search) < 0:
            raise ConfigError("stage.retrieve: num_probes, shortlist and ef_search >= 0 are needed; try 0")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ConfigError(f"stage.retrieve.dense_weight={self.dense_weight}: between 0 and 1; try null, or 0.7")
        check_filter(self.filter)


@dataclass
class Found:
    """Hits by method on rank 0 (empty elsewhere), and the seconds that each method took."""

    hits: dict[str, Hits] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    shards_asked: float | None = None  # ranks that a query asked of the vector index, where they hold lists


def knowledge(inputs: Mapping[str, Manifest]) -> float | None:
    """Return how well the encoder finds the corpus's passages again (search/trial.py), None where it was not tried."""
    return inputs["retrieve.queries"].extra().get(FOUND_AGAIN) if "retrieve.queries" in inputs else None


def as_checked(settings: SearchSettings, inputs: Mapping[str, Manifest]) -> SearchSettings:
    """Return the settings with each number of the vector index's effort that nobody set as its recall was checked with;
    in runs that check none, as the training found. Raises ConfigError where the index cannot be divided so."""
    made = [inputs[name] for name in ("vectors.check", "vectors.build", "vectors.train") if name in inputs]
    effort = next((effort for effort in map(effort_of, made) if effort), Effort())
    if made:
        check_division(settings.divided_by, effort.kind)
    numbers = {name: getattr(settings, name) or getattr(effort, name) for name in EFFORT_NUMBERS}
    return dataclasses.replace(settings, **numbers)


class Searcher:
    """The shards of one rank. Every rank must make the same calls, since shards exchange statistics and hits."""

    def __init__(
        self,
        lexical: Manifest,
        encoded: Manifest,
        vectors: Manifest | None,
        settings: SearchSettings,
        comm: Comm,
        scratch: Path,
        found_again: float | None = None,
    ) -> None:
        """`found_again`: as `knowledge` returns it."""
        self._settings, self._comm, self._found_again = settings, comm, found_again
        self._allowed_N: Array | None = None
        store = VectorStore(encoded)
        fields = lexical.config.get("fields", [])
        weights = weights_of(fields, settings.fields)
        self._lexical = Lexical(lexical, store, comm, scratch, fields)
        shards = self._lexical.shards
        check_feedback(settings.rm3, lexical.config.get("term_vectors", False))
        if holds_impacts(lexical):
            self._queries = ImpactQuestions(lexical).queries
        else:
            known = indexed(lexical)
            questions = Questions(shards, comm, lexical.config, settings.k1, settings.b, weights, known)
            self._queries = questions.queries
            if settings.rm3.fb_docs:
                self._queries = Feedback(shards, questions, comm, settings.rm3, self._lexical.first_passages).queries
        self._first, stop = slice_of(len(store), comm)
        self._rows = store.rows(self._first, stop)
        wanted = Effort(**{name: getattr(settings, name) for name in EFFORT_NUMBERS})
        self._index = Ann(vectors, self._rows, self._first, comm, wanted, settings.divided_by) if vectors else None
        self.exact = resolved(settings.exact, len(store), indexed=vectors is not None)

    def restrict(self, allowed_N: Array | None) -> None:
        """Let only these passages be found (search/filters.py), the same on every rank; None: all.

        Of few, exact search takes the place of the index.
        """
        self._allowed_N = allowed_N
        self._lexical.restrict(allowed_N)

    def search(self, texts: Sequence[str], vectors_QD: Array, judged: I64 | None = None) -> Found:
        """Return the hits of all methods for the queries (same on every rank).

        judged: rising rows of the queries that are searched exactly too, where not all are; others have no such hits.
        """
        results = Found()
        vectors_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
        begun = time.monotonic()
        queries = self._queries(texts)
        results.seconds["bm25"] = time.monotonic() - begun
        steps: dict[str, Callable[[], Hits]] = {
            "bm25": lambda: self._lexical.search(queries, vectors_QD, self._settings.depth),
        }
        exactly = np.arange(len(texts)) if self.exact is Exact.always else judged
        if exactly is not None:
            steps["dense"] = lambda: self._dense(vectors_QD, exactly)
        if self._index is not None:
            steps["ann"] = lambda: self._approximate(vectors_QD)
        for method, step in steps.items():
            begun = time.monotonic()
            found = merged(step(), self._comm)
            results.seconds[method] = results.seconds.get(method, 0.0) + time.monotonic() - begun
            if found is not None:
                results.hits[method] = found
        results.shards_asked = self._index.shards_asked if self._index else None
        if self._comm.rank == 0:
            by_vectors = results.hits["dense" if self.exact is Exact.always else "ann"]
            results.hits["fused"] = self._fuse(queries, results.hits["bm25"], by_vectors)
        return results

    def _dense(self, vectors_QD: Array, judged: I64) -> Hits:
        scores, ids = self._nothing(len(vectors_QD))
        if len(self._rows) and len(judged):
            depth = self._settings.depth
            if self._allowed_N is None:
                found = exact_topk(vectors_QD[judged], self._rows, depth, first_id=self._first)
            else:
                held = np.flatnonzero(self._allowed_N[self._first : self._first + len(self._rows)])
                best, at = exact_topk(vectors_QD[judged], self._rows[held], depth)
                found = best, np.where(at >= 0, np.append(held, 0)[at] + self._first, -1)
            scores[judged], ids[judged] = found
        return scores, ids

    def _approximate(self, vectors_QD: F32) -> Hits:
        if self._allowed_N is not None and int(self._allowed_N.sum()) <= UP_TO:
            return self._dense(vectors_QD, np.arange(len(vectors_QD)))
        assert self._index is not None
        return self._index.search(vectors_QD, self._settings.depth, self._allowed_N)

    def _fuse(self, queries: Sequence[bm25.Query], lexical: Hits, dense: Hits) -> Hits:
        given = self._settings.dense_weight
        weights_Q = np.full(len(queries), given if given is not None else 0.0)
        best_Q = np.maximum(lexical[0][:, 0], 0.0).tolist()
        for row, query in enumerate(queries if given is None else []):
            possible = query.most
            weights_Q[row] = dense_weight(best_Q[row] / possible if possible else 0.0, self._found_again)
        return weighted_rows(lexical, dense, weights_Q, self._settings.depth)

    def _nothing(self, num_queries: int) -> Hits:
        return nothing(num_queries, self._settings.depth)
