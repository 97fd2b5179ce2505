"""Queries widened by what they find first (RM3), over the shards of all ranks.

The first documents are those of all shards, each rank tells the words of those that it holds, and every rank then makes
the same queries. Q queries, F feedback documents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from rag_hpc.algo.rank import bm25, rm3
from rag_hpc.algo.rank.topk import merge_topk
from rag_hpc.algo.types import I64
from rag_hpc.core.comm import Comm
from rag_hpc.search.ann import gathered
from rag_hpc.search.languages import ENGLISH
from rag_hpc.search.questions import Questions
from rag_hpc.search.shards import Shards

Words = dict[str, int]


class Feedback:
    """Makes widened queries. Every rank must make the same calls."""

    def __init__(
        self, shards: Shards, questions: Questions, comm: Comm, how: rm3.Rm3, numbers: Callable[[I64], I64]
    ) -> None:
        """numbers: returns the collection's numbers of documents of these shards, rising with them."""
        self._shards, self._questions, self._comm, self._how, self._numbers = shards, questions, comm, how, numbers
        self._num_docs = int(comm.sum(np.array([shards.max_doc], dtype=np.int64))[0])

    def queries(self, texts: Sequence[str]) -> list[bm25.Query]:
        """Return each question's widened query."""
        words = self._questions.analyzed(texts)
        found = self._first(self._questions.make(words))
        df = self._questions.collections({word for row in found for _, freqs in row for word in freqs})[0].df
        rows = zip(words, found, strict=True)
        return self._questions.make([rm3.widened(own, row, df, self._num_docs, self._how) for own, row in rows])

    def _first(self, queries: Sequence[bm25.Query]) -> list[list[tuple[float, Words]]]:
        """Return the scores and words of each query's first documents over all ranks, on every rank."""
        scores_QF, docs_QF = self._shards.top(queries, self._how.fb_docs)
        held = docs_QF >= 0
        numbers_QF = np.full(docs_QF.shape, -1, dtype=np.int64)
        numbers_QF[held] = self._numbers(docs_QF[held])
        parts = gathered((scores_QF, numbers_QF), self._comm)
        best = merge_topk(parts, self._how.fb_docs) if parts else None
        scores_QF = self._comm.broadcast(best[0] if best else None)
        wanted_QF = self._comm.broadcast(best[1] if best else None)
        rows = [
            {int(number): int(doc) for number, doc in zip(numbers, docs, strict=True)}
            for numbers, docs in zip(numbers_QF, docs_QF, strict=True)
        ]
        mine = [
            (row, place, rows[row][number])
            for row, wanted in enumerate(wanted_QF.tolist())
            for place, number in enumerate(wanted)
            if number >= 0 and number in rows[row]
        ]
        words = self._everyones(mine)
        return [
            [(float(scores_QF[row, place]), words[row, place]) for place in range(len(wanted)) if wanted[place] >= 0]
            for row, wanted in enumerate(wanted_QF)
        ]

    def _everyones(self, mine: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int], Words]:
        """Return what the documents of all ranks have for words, by query and place; mine: query, place, document."""
        ascii_only = list(self._questions.analyzers) == [ENGLISH]
        vectors = self._shards.vectors([doc for _, _, doc in mine])
        lines = [
            json.dumps([row, place, rm3.candidates(freqs, ascii_only=ascii_only)]) + "\n"
            for (row, place, _), freqs in zip(mine, vectors, strict=True)
        ]
        local = np.frombuffer("".join(lines).encode("ascii"), dtype=np.uint8)
        told = bytes(self._comm.broadcast(self._comm.gather_rows(local))).decode("ascii")
        return {(row, place): freqs for row, place, freqs in map(json.loads, told.splitlines())}
