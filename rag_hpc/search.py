"""Scatter-gather search over the shards that a rank holds: BM25, exact vectors, inverted lists, and their fusion.

Q queries, K hits. Every method's hits are ordered by (score, ordinal), and no score depends on which rank holds which
shard; missing hits are (-inf, -1). With one rank it is the baseline's search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc import lucene
from rag_hpc.algo import bm25
from rag_hpc.algo.fusion import rrf
from rag_hpc.algo.topk import Hits, canonical_scores, exact_topk, merge_topk
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.vectorstore import VectorStore, load_shards

Array = npt.NDArray[Any]


@dataclass(kw_only=True)
class SearchSettings:
    """What a search needs to know, apart from the indexes."""

    depth: int = 100  # hits that each method gives to the fusion
    k1: float = 0.9
    b: float = 0.4
    rrf_k: int = 60
    num_probes: int = 8


@dataclass
class Found:
    """Hits by method on rank 0 (empty elsewhere), and the seconds that each method took."""

    hits: dict[str, Hits] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Searcher:
    """The shards of one rank. Every rank must make the same calls, since shards exchange statistics and hits."""

    def __init__(self, lexical: Manifest, encoded: Manifest, vectors: Manifest | None, settings: SearchSettings,
                 comm: Comm, scratch: Path) -> None:
        self._settings, self._comm = settings, comm
        self._lexical = [self._open(lexical, position, scratch) for position in self._mine(len(lexical.units))]
        sizes = np.array([[s.num_docs, s.total_terms] for _, s in self._lexical], dtype=np.int64).reshape(-1, 2).sum(0)
        self._num_docs, self._total_terms = (int(n) for n in comm.sum(sizes))
        store = VectorStore(encoded)
        edges = np.linspace(0, len(store), comm.world_size + 1).astype(np.int64)
        self._first = int(edges[comm.rank])
        self._rows = store.rows(self._first, int(edges[comm.rank + 1]))
        self._store = store
        self._inverted = load_shards(vectors, self._mine(len(vectors.units))) if vectors else None
        for index in self._inverted or []:
            index.nprobe = settings.num_probes

    def search(self, texts: Sequence[str], vectors_QD: Array) -> Found:
        """Return the hits of all methods for the queries (same on every rank)."""
        found = Found()
        vectors_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
        steps: dict[str, Callable[[], Hits]] = {
            "bm25": lambda: self._bm25(texts),
            "dense": lambda: self._dense(vectors_QD),
        }
        if self._inverted is not None:
            steps["ann"] = lambda: self._ann(vectors_QD)
        for method, step in steps.items():
            begun = time.monotonic()
            merged = self._merge(step())
            found.seconds[method] = time.monotonic() - begun
            if merged is not None:
                found.hits[method] = merged
        if self._comm.rank == 0:
            found.hits["fused"] = self._fuse(found.hits["bm25"], found.hits["dense"])
        return found

    def _mine(self, num_shards: int) -> list[int]:
        return [s for s in range(num_shards) if s % self._comm.world_size == self._comm.rank]

    def _open(self, lexical: Manifest, position: int, scratch: Path) -> tuple[int, lucene.ShardSearcher]:
        """Unpack a shard onto node-local scratch; return its first ordinal and its searcher."""
        packed = lexical.checked(position, "index.tar")
        searcher = lucene.ShardSearcher(lucene.unpack(packed, scratch / f"lexical-{position}"))
        first = int(searcher.ids([0])[0]) if searcher.max_doc else 0
        return first, searcher

    def _bm25(self, texts: Sequence[str]) -> Hits:
        analyzed = [lucene.analyze(text) for text in texts]
        terms = sorted({term for words in analyzed for term in words})
        local = np.zeros(len(terms), dtype=np.int64)
        for _, shard in self._lexical:
            counts = shard.df(terms)
            local += np.array([counts[term] for term in terms], dtype=np.int64)
        df = dict(zip(terms, (int(n) for n in self._comm.sum(local)), strict=True))
        whole = bm25.Collection(num_docs=self._num_docs, total_terms=self._total_terms, df=df)
        queries = [bm25.make_query(words, whole, self._settings.k1, self._settings.b) for words in analyzed]
        parts = [self._shard_hits(first, shard, queries) for first, shard in self._lexical]
        return merge_topk(parts, self._settings.depth) if parts else self._nothing(len(texts))

    def _shard_hits(self, first: int, shard: lucene.ShardSearcher, queries: Sequence[bm25.Query]) -> Hits:
        scores, ids = self._nothing(len(queries))
        for row, query in enumerate(queries):
            docs_K, scores_K = shard.top(query, self._settings.depth)
            scores[row, : len(docs_K)], ids[row, : len(docs_K)] = scores_K, docs_K + first
        return scores, ids

    def _dense(self, vectors_QD: Array) -> Hits:
        if not len(self._rows):
            return self._nothing(len(vectors_QD))
        return exact_topk(vectors_QD, self._rows, self._settings.depth, first_id=self._first)

    def _ann(self, vectors_QD: Array) -> Hits:
        """Return the inverted lists' hits under canonical scores, so that shards merge to what one index gives."""
        parts = [self._nothing(len(vectors_QD))]
        for index in self._inverted or []:
            _, ids = index.search(vectors_QD, self._settings.depth)
            scores = np.full(ids.shape, -np.inf, dtype=np.float32)
            for row, found in enumerate(ids):
                kept = np.sort(found[found >= 0])
                rows = self._store.take(kept).astype(np.float32)
                ids[row] = -1
                ids[row, : len(kept)] = kept
                scores[row, : len(kept)] = canonical_scores(np.repeat(vectors_QD[row][None], len(kept), axis=0), rows)
            parts.append((scores, ids))
        return merge_topk(parts, self._settings.depth)

    def _merge(self, local: Hits) -> Hits | None:
        """Return the ranks' hits merged on rank 0, None elsewhere."""
        scores, ids = self._comm.gather_rows(local[0]), self._comm.gather_rows(local[1])
        if scores is None or ids is None:
            return None
        shape = (self._comm.world_size, -1, scores.shape[1])
        parts = zip(scores.reshape(shape), ids.reshape(shape), strict=True)
        return merge_topk(list(parts), self._settings.depth)

    def _fuse(self, *methods: Hits) -> Hits:
        num_queries = len(methods[0][1])
        scores, ids = self._nothing(num_queries)
        for row in range(num_queries):
            rankings = [hits[1][row][hits[1][row] >= 0] for hits in methods]
            fused_ids, fused_scores = rrf(rankings, self._settings.depth, k=self._settings.rrf_k)
            ids[row, : len(fused_ids)], scores[row, : len(fused_ids)] = fused_ids, fused_scores
        return scores, ids

    def _nothing(self, num_queries: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        shape = (num_queries, self._settings.depth)
        return np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
