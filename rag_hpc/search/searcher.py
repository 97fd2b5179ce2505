"""Scatter-gather search over the shards that a rank holds: BM25, exact vectors, a vector index, and their fusion.

Q queries, K hits. Every method's hits are ordered by (score, ordinal), and no score depends on which rank holds which
shard; missing hits are (-inf, -1). With one rank it is the baseline's search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.fusion import dense_weight, weighted_rows
from rag_hpc.algo.rank.topk import Hits, canonical_scores, exact_topk, merge_topk, nothing
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search import lucene
from rag_hpc.search.ann import Ann, merged, slice_of
from rag_hpc.search.exact import UP_TO, Exact, resolved
from rag_hpc.search.filters import check_filter
from rag_hpc.search.jvm import Analyzer
from rag_hpc.search.shards import Shards, analyze, num_threads
from rag_hpc.stores.questions import FOUND_AGAIN
from rag_hpc.stores.shards import LEXICAL, Effort
from rag_hpc.stores.vectors import VectorStore

_PASSAGES = 4096  # of documents that are compared at once


@dataclass(kw_only=True)
class SearchSettings:
    """How a search ranks: the defaults of every search."""

    depth: int = 100  # hits kept of each method, and given to the fusion
    k1: float = 0.9
    b: float = 0.4
    dense_weight: float | None = None  # in the fused ranking, BM25 has the rest; null = by query and encoder
    num_probes: int = 0  # of the inverted lists; 0 = as the vector index was checked with
    exact: Exact = Exact.auto  # which questions are searched exactly beside a vector index; see search/exact.py
    filter: str = ""  # which passages may be found, e.g. "lang == 'en'"; see search/filters.py

    def __post_init__(self) -> None:
        if self.depth < 1 or self.k1 < 0 or not 0 <= self.b <= 1:
            raise ConfigError("stage.retrieve: depth >= 1, k1 >= 0 and 0 <= b <= 1 are needed")
        if self.num_probes < 0:
            raise ConfigError("stage.retrieve: num_probes >= 0 is needed; try num_probes=0")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ConfigError(f"stage.retrieve.dense_weight={self.dense_weight}: between 0 and 1; try null, or 0.7")
        check_filter(self.filter)


@dataclass
class Found:
    """Hits by method on rank 0 (empty elsewhere), and the seconds that each method took."""

    hits: dict[str, Hits] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def knowledge(inputs: Mapping[str, Manifest]) -> float | None:
    """Return how well the encoder finds the corpus's passages again (search/trial.py), None where it was not tried."""
    return inputs["retrieve.queries"].extra().get(FOUND_AGAIN) if "retrieve.queries" in inputs else None


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
        self._lexical, self._ordinals = self._open(lexical, scratch)
        self._held_N: Array | None = None
        self._analyzer = lexical.config.get("analyzer", Analyzer.en.value)  # runs of before have no other
        sizes = np.array([self._lexical.num_docs, self._lexical.total_terms], dtype=np.int64)
        self._num_docs, self._total_terms = (int(n) for n in comm.sum(sizes))
        store = VectorStore(encoded)
        self._first, stop = slice_of(len(store), comm)
        self._rows = store.rows(self._first, stop)
        self._store = store
        wanted = Effort(num_probes=settings.num_probes)
        self._index = Ann(vectors, self._rows, self._first, comm, wanted) if vectors else None
        self.exact = resolved(settings.exact, len(store), indexed=vectors is not None)

    def restrict(self, allowed_N: Array | None) -> None:
        """Let only these passages be found (search/filters.py), the same on every rank; None: all.

        Of few, exact search takes the place of the index.
        """
        self._allowed_N, self._held_N = allowed_N, None

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
            "bm25": lambda: self._bm25(queries, vectors_QD),
        }
        exactly = np.arange(len(texts)) if self.exact is Exact.always else judged
        if exactly is not None:
            steps["dense"] = lambda: self._dense(vectors_QD, exactly)
        if (index := self._index) is not None:
            every = np.arange(len(texts))
            few = self._allowed_N is not None and int(self._allowed_N.sum()) <= UP_TO
            steps["ann"] = lambda: self._dense(vectors_QD, every) if few else self._approximate(index, vectors_QD)
        for method, step in steps.items():
            begun = time.monotonic()
            merged = self._merge(step())
            results.seconds[method] = results.seconds.get(method, 0.0) + time.monotonic() - begun
            if merged is not None:
                results.hits[method] = merged
        if self._comm.rank == 0:
            by_vectors = results.hits["dense" if self.exact is Exact.always else "ann"]
            results.hits["fused"] = self._fuse(queries, results.hits["bm25"], by_vectors)
        return results

    def _mine(self, num_shards: int) -> list[int]:
        return [s for s in range(num_shards) if s % self._comm.world_size == self._comm.rank]

    def _open(self, lexical: Manifest, scratch: Path) -> tuple[Shards, I64 | None]:
        """Unpack this rank's shards onto node-local scratch; return them, and of each the ordinal of its first document
        (None: they hold whole documents)."""
        mine = self._mine(len(lexical.units))
        packed = [lexical.checked(position, LEXICAL) for position in mine]
        folders = [scratch / f"lexical-{position}" for position in mine]
        shards = Shards([lucene.unpack(*pair) for pair in zip(packed, folders, strict=True)], threads=num_threads())
        held = np.diff(shards.starts) > 0
        names, ordinals = shards.ids(shards.starts[:-1][held]), np.zeros(len(mine), dtype=np.int64)
        if any("-" in name for name in names):
            return shards, None
        ordinals[held] = [int(name) for name in names]
        return shards, ordinals

    def _queries(self, texts: Sequence[str]) -> list[bm25.Query]:
        analyzed = analyze(texts, self._analyzer)
        terms = sorted({term for words in analyzed for term in words})
        counts = self._lexical.df(terms)
        summed = self._comm.sum(np.array([counts[term] for term in terms], dtype=np.int64))
        df = dict(zip(terms, (int(n) for n in summed), strict=True))
        whole = bm25.Collection(num_docs=self._num_docs, total_terms=self._total_terms, df=df)
        return [bm25.make_query(words, whole, self._settings.k1, self._settings.b) for words in analyzed]

    def _bm25(self, queries: Sequence[bm25.Query], vectors_QD: F32) -> Hits:
        scores, docs = self._top(queries)
        rows, columns = np.nonzero(docs >= 0)
        found = docs[rows, columns]
        if self._ordinals is None:
            docs[rows, columns] = self._best_passages(self._lexical.ids(found), vectors_QD[rows])
        else:
            shard = np.searchsorted(self._lexical.starts, found, side="right") - 1
            docs[rows, columns] = found - self._lexical.starts[shard] + self._ordinals[shard]
        return scores, docs

    def _top(self, queries: Sequence[bm25.Query]) -> Hits:
        """Return the best documents that may be found; where the filter drops too many, more are asked for."""
        depth, most = self._settings.depth, self._lexical.max_doc
        if self._allowed_N is None or not most:
            return self._lexical.top(queries, depth)
        scores_QK, docs_QK = self._nothing(len(queries))
        held_N, open_Q, asked = self._held(), np.arange(len(queries)), 2 * depth
        while len(open_Q):
            asked = min(asked, most)
            scores, docs = self._lexical.top([queries[row] for row in open_Q], asked)
            kept = (docs >= 0) & held_N[docs]
            best = merge_topk([(scores, np.where(kept, docs, -1))], depth)
            done = (kept.sum(axis=1) >= depth) | (docs[:, -1] < 0) | (asked == most)
            scores_QK[open_Q[done]], docs_QK[open_Q[done]] = best[0][done], best[1][done]
            open_Q, asked = open_Q[~done], 4 * asked
        return scores_QK, docs_QK

    def _held(self) -> Array:
        """Return of each document of this rank's shards whether it, or a passage of it, may be found."""
        if self._held_N is None:
            assert self._allowed_N is not None
            if self._ordinals is None:
                spans = _spans(self._lexical.ids(range(self._lexical.max_doc)))
                before_N = np.concatenate([[0], np.cumsum(self._allowed_N)])
                self._held_N = before_N[spans[:, 1]] > before_N[spans[:, 0]]
            else:
                sizes = np.diff(self._lexical.starts)
                shift = np.repeat(self._ordinals - self._lexical.starts[:-1], sizes)
                self._held_N = self._allowed_N[np.arange(self._lexical.max_doc) + shift]
        return self._held_N

    def _best_passages(self, documents: Sequence[str], vectors_PD: F32) -> I64:
        """Return the passage of each document, "FIRST-STOP", that is nearest to its query; the first of equal ones."""
        spans_P2 = _spans(documents)
        best_P, sizes_P = spans_P2[:, 0].copy(), spans_P2[:, 1] - spans_P2[:, 0]
        long = np.flatnonzero(sizes_P > 1)
        ends = np.cumsum(sizes_P[long])
        for part in np.split(
            long, np.searchsorted(ends, np.arange(_PASSAGES, ends[-1], _PASSAGES)) if len(long) else []
        ):
            sizes = sizes_P[part]
            starts = np.cumsum(sizes) - sizes
            rows = np.repeat(best_P[part] - starts, sizes) + np.arange(sizes.sum())
            found, at = np.unique(rows, return_inverse=True)
            scores = canonical_scores(vectors_PD[np.repeat(part, sizes)], self._store.take(found)[at])
            if self._allowed_N is not None:
                scores[~self._allowed_N[rows]] = -np.inf
            if len(part):
                largest = np.repeat(np.maximum.reduceat(scores, starts), sizes)
                best_P[part] = np.minimum.reduceat(np.where(scores == largest, rows, np.iinfo(np.int64).max), starts)
        return best_P

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

    def _approximate(self, index: Ann, vectors_QD: F32) -> Hits:
        return index.search(vectors_QD, self._settings.depth, self._allowed_N)

    def _merge(self, local: Hits) -> Hits | None:
        """Return the ranks' hits merged on rank 0, None elsewhere."""
        return merged(local, self._comm)

    def _fuse(self, queries: Sequence[bm25.Query], lexical: Hits, dense: Hits) -> Hits:
        given = self._settings.dense_weight
        weights_Q = np.full(len(queries), given if given is not None else 0.0)
        best_Q = np.maximum(lexical[0][:, 0], 0.0).tolist()
        for row, query in enumerate(queries if given is None else []):
            possible = float(query.weights_T.sum())
            weights_Q[row] = dense_weight(best_Q[row] / possible if possible else 0.0, self._found_again)
        return weighted_rows(lexical, dense, weights_Q, self._settings.depth)

    def _nothing(self, num_queries: int) -> Hits:
        return nothing(num_queries, self._settings.depth)


def _spans(documents: Sequence[str]) -> I64:
    """Return the ordinals [first, stop) of documents named "FIRST-STOP"."""
    return np.array([name.split("-") for name in documents], dtype=np.int64).reshape(-1, 2)
