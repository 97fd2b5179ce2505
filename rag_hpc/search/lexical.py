"""BM25 over the Lucene shards of a rank, whose documents are passages, or hold those that vectors choose among.

Q queries, K hits, P hits of all queries, D dimensions, N passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.topk import Hits, canonical_scores, merge_topk, nothing
from rag_hpc.algo.types import F32, I64, Array
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.search import lucene
from rag_hpc.search.shards import Shards, num_threads
from rag_hpc.search.spans import spans_of
from rag_hpc.stores.shards import LEXICAL, SPANS
from rag_hpc.stores.vectors import VectorStore

_PASSAGES = 4096  # of documents that are compared at once


class Lexical:
    """This rank's shards; hits are passages' ordinals."""

    def __init__(
        self, lexical: Manifest, vectors: VectorStore, comm: Comm, scratch: Path, fields: Sequence[str] = ()
    ) -> None:
        """Unpack the shards onto node-local scratch. vectors: of all passages; fields: that are indexed beside the
        text."""
        self._vectors = vectors
        self._allowed_N: Array | None = None
        self._held_N: Array | None = None
        mine = range(comm.rank, len(lexical.units), comm.world_size)
        packed = [lexical.checked(position, LEXICAL) for position in mine]
        folders = [scratch / f"lexical-{position}" for position in mine]
        unpacked = [lucene.unpack(*pair) for pair in zip(packed, folders, strict=True)]
        self.shards = Shards(unpacked, threads=num_threads(), fields=(lucene.CONTENTS, *fields))
        self._spans = spans_of(self.shards, lexical, mine)
        self._is_given = bool(lexical.holders(SPANS))  # whose documents stand in an order of their own
        self._parts = [(self.shards, 0)]  # with where their documents begin among all
        if lexical.config.get("partition_by"):
            # of two values' passages the later may have the smaller ordinals: each is cut by itself, so ties are right
            named, starts = (lucene.CONTENTS, *fields), self.shards.starts.tolist()
            apart = [Shards([folder], threads=num_threads(), fields=named) for folder in unpacked]
            self._parts = list(zip(apart, starts, strict=False))

    def restrict(self, allowed_N: Array | None) -> None:
        """Let only these passages be found; None: all."""
        self._allowed_N, self._held_N = allowed_N, None

    def search(self, queries: Sequence[bm25.Query], vectors_QD: F32, depth: int) -> Hits:
        """Return the passages of this rank's `depth` best documents by BM25; of a whole document, by vectors."""
        parts = [
            self._top(shards, first, queries, depth) for shards, first in self._parts if self._may_have(shards, first)
        ]
        if not parts:
            return nothing(len(queries), depth)
        scores, docs = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
        rows, columns = np.nonzero(docs >= 0)
        docs[rows, columns] = self._best_passages(self._spans(docs[rows, columns]), vectors_QD[rows])
        return merge_topk([(scores, docs)], depth) if self._is_given else (scores, docs)

    def first_passages(self, docs: I64) -> I64:
        """Return the first passage of each document: its number in the collection."""
        return self._spans(docs)[:, 0]

    def _may_have(self, shards: Shards, first: int) -> bool:
        """Return whether a document of these shards may be found."""
        return self._allowed_N is None or bool(self._held()[first : first + shards.max_doc].any())

    def _top(self, shards: Shards, first: int, queries: Sequence[bm25.Query], depth: int) -> Hits:
        """Return the best documents that may be found; where the filter drops too many, more are asked for.

        first: the number of the shards' first document among all.
        """
        most = shards.max_doc
        if self._allowed_N is None or not most:
            return _from(first, shards.top(queries, depth))
        scores_QK, docs_QK = nothing(len(queries), depth)
        held_N = self._held()[first : first + most]
        open_Q, asked = np.arange(len(queries)), 2 * depth
        while len(open_Q):
            asked = min(asked, most)
            scores, docs = shards.top([queries[row] for row in open_Q.tolist()], asked)
            kept = (docs >= 0) & held_N[docs]
            best = merge_topk([(scores, np.where(kept, docs, -1))], depth)
            done = (kept.sum(axis=1) >= depth) | (docs[:, -1] < 0) | (asked == most)
            scores_QK[open_Q[done]], docs_QK[open_Q[done]] = best[0][done], best[1][done]
            open_Q, asked = open_Q[~done], 4 * asked
        return _from(first, (scores_QK, docs_QK))

    def _held(self) -> Array:
        """Return of each document of this rank's shards whether it, or a passage of it, may be found."""
        if self._held_N is None:
            assert self._allowed_N is not None
            spans_N2 = self._spans(np.arange(self.shards.max_doc))
            before_N = np.concatenate([[0], np.cumsum(self._allowed_N)])
            self._held_N = before_N[spans_N2[:, 1]] > before_N[spans_N2[:, 0]]
        return self._held_N

    def _best_passages(self, spans_P2: I64, vectors_PD: F32) -> I64:
        """Return the passage of each document that is nearest to its query; the first of equal ones."""
        best_P, sizes_P = spans_P2[:, 0].copy(), spans_P2[:, 1] - spans_P2[:, 0]
        long = np.flatnonzero(sizes_P > 1)
        ends = np.cumsum(sizes_P[long])
        edges = np.arange(_PASSAGES, ends[-1] if len(long) else 0, _PASSAGES)
        for part in np.split(long, np.searchsorted(ends, edges)):
            sizes = sizes_P[part]
            starts = np.cumsum(sizes) - sizes
            rows = np.repeat(best_P[part] - starts, sizes) + np.arange(sizes.sum())
            found, at = np.unique(rows, return_inverse=True)
            scores = canonical_scores(vectors_PD[np.repeat(part, sizes)], self._vectors.take(found)[at])
            if self._allowed_N is not None:
                scores[~self._allowed_N[rows]] = -np.inf
            if len(part):
                largest = np.repeat(np.maximum.reduceat(scores, starts), sizes)
                best_P[part] = np.minimum.reduceat(np.where(scores == largest, rows, np.iinfo(np.int64).max), starts)
        return best_P


def _from(first: int, hits: Hits) -> Hits:
    """Return hits with documents numbered from `first`."""
    return hits[0], np.where(hits[1] >= 0, hits[1] + first, -1)
