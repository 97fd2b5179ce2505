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
from rag_hpc.algo.rank.fusion import dense_weight, weighted
from rag_hpc.algo.rank.rm3 import Rm3
from rag_hpc.algo.rank.topk import Hits, canonical_scores, exact_topk, merge_topk, nothing
from rag_hpc.algo.types import F32, I64, Array, Indices
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search import lucene
from rag_hpc.search.ann import Ann, gathered, slice_of
from rag_hpc.search.feedback import Feedback
from rag_hpc.search.questions import FieldWeights, Questions, check_feedback, weights_of
from rag_hpc.search.shards import Shards, num_threads
from rag_hpc.search.spans import Spans, spans_of
from rag_hpc.stores.questions import FOUND_AGAIN
from rag_hpc.stores.shards import LEXICAL, Effort
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

    def __post_init__(self) -> None:
        if self.depth < 1 or self.k1 < 0 or not 0 <= self.b <= 1:
            raise ConfigError("stage.retrieve: depth >= 1, k1 >= 0 and 0 <= b <= 1 are needed")
        if self.num_probes < 0:
            raise ConfigError("stage.retrieve: num_probes >= 0 is needed; try num_probes=0")
        if self.dense_weight is not None and not 0 <= self.dense_weight <= 1:
            raise ConfigError(f"stage.retrieve.dense_weight={self.dense_weight}: between 0 and 1; try null, or 0.7")


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
        fields = lexical.config.get("fields", [])
        weights = weights_of(fields, settings.fields)
        self._lexical, self._spans = self._open(lexical, scratch, fields)
        self._questions = Questions(self._lexical, comm, lexical.config, settings.k1, settings.b, weights)
        check_feedback(settings.rm3, lexical.config.get("term_vectors", False))
        if settings.rm3.fb_docs:
            feedback = Feedback(self._lexical, self._questions, comm, settings.rm3, self._first_passages)
        self._queries = feedback.queries if settings.rm3.fb_docs else self._questions.queries
        store = VectorStore(encoded)
        self._first, stop = slice_of(len(store), comm)
        self._rows = store.rows(self._first, stop)
        self._store = store
        wanted = Effort(num_probes=settings.num_probes)
        self._index = Ann(vectors, self._rows, self._first, comm, wanted) if vectors else None

    def search(self, texts: Sequence[str], vectors_QD: Array) -> Found:
        """Return the hits of all methods for the queries (same on every rank)."""
        results = Found()
        vectors_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
        begun = time.monotonic()
        queries = self._queries(texts)
        results.seconds["bm25"] = time.monotonic() - begun
        steps: dict[str, Callable[[], Hits]] = {
            "bm25": lambda: self._bm25(queries, vectors_QD),
            "dense": lambda: self._dense(vectors_QD),
        }
        if (index := self._index) is not None:
            steps["ann"] = lambda: index.search(vectors_QD, self._settings.depth)
        for method, step in steps.items():
            begun = time.monotonic()
            merged = self._merge(step())
            results.seconds[method] = results.seconds.get(method, 0.0) + time.monotonic() - begun
            if merged is not None:
                results.hits[method] = merged
        if self._comm.rank == 0:
            results.hits["fused"] = self._fuse(queries, results.hits["bm25"], results.hits["dense"])
        return results

    def _mine(self, num_shards: int) -> list[int]:
        return [s for s in range(num_shards) if s % self._comm.world_size == self._comm.rank]

    def _open(self, lexical: Manifest, scratch: Path, fields: Sequence[str]) -> tuple[Shards, Spans]:
        """Unpack this rank's shards onto node-local scratch; return them, and what tells their documents' passages."""
        mine = self._mine(len(lexical.units))
        packed = [lexical.checked(position, LEXICAL) for position in mine]
        folders = [scratch / f"lexical-{position}" for position in mine]
        unpacked = [lucene.unpack(*pair) for pair in zip(packed, folders, strict=True)]
        shards = Shards(unpacked, threads=num_threads(), fields=(lucene.CONTENTS, *fields))
        return shards, spans_of(shards, lexical, mine)

    def _bm25(self, queries: Sequence[bm25.Query], vectors_QD: F32) -> Hits:
        scores, docs = self._lexical.top(queries, self._settings.depth)
        rows, columns = np.nonzero(docs >= 0)
        docs[rows, columns] = self._best_passages(self._spans(docs[rows, columns]), rows, vectors_QD)
        return scores, docs

    def _first_passages(self, docs: I64) -> I64:
        return self._spans(docs)[:, 0]

    def _best_passages(self, spans_P2: I64, rows_P: Indices, vectors_QD: F32) -> I64:
        """Return the passage of each document that is nearest to its query; the first of equal ones."""
        best: I64 = spans_P2[:, 0].copy()
        for place in np.nonzero(spans_P2[:, 1] - spans_P2[:, 0] > 1)[0]:
            first, stop = spans_P2[place].tolist()
            rows = self._store.take(np.arange(first, stop)).astype(np.float32)
            asked = np.repeat(vectors_QD[rows_P[place]][None], stop - first, axis=0)
            best[place] += int(np.argmax(canonical_scores(asked, rows)))
        return best

    def _dense(self, vectors_QD: Array) -> Hits:
        if not len(self._rows):
            return self._nothing(len(vectors_QD))
        return exact_topk(vectors_QD, self._rows, self._settings.depth, first_id=self._first)

    def _merge(self, local: Hits) -> Hits | None:
        """Return the ranks' hits merged on rank 0, None elsewhere."""
        parts = gathered(local, self._comm)
        return merge_topk(parts, self._settings.depth) if parts else None

    def _fuse(self, queries: Sequence[bm25.Query], lexical: Hits, dense: Hits) -> Hits:
        scores, ids = self._nothing(len(queries))
        for row, query in enumerate(queries):
            rankings = [(hits[1][row][hits[1][row] >= 0], hits[0][row][hits[1][row] >= 0]) for hits in (lexical, dense)]
            weight = self._settings.dense_weight
            if weight is None:
                best, possible = float(rankings[0][1].max(initial=0.0)), float(query.weights_T.sum())
                weight = dense_weight(best / possible if possible else 0.0, self._found_again)
            fused_ids, fused_scores = weighted(rankings, (1 - weight, weight), self._settings.depth)
            ids[row, : len(fused_ids)], scores[row, : len(fused_ids)] = fused_ids, fused_scores
        return scores, ids

    def _nothing(self, num_queries: int) -> Hits:
        return nothing(num_queries, self._settings.depth)
