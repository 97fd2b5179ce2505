"""The Lucene shards that a process holds, open for search as one: their statistics, and each query's best documents.

Q queries, K hits, P (query, document) pairs, T terms of a query. The scan is java/Shards.java: it reads Lucene's
postings, sums float64 and says which sums might round to either of two float32 values in another order. Those are
summed here in the canonical order; of the others the bits are known already.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.topk import Hits, merge_topk
from rag_hpc.algo.types import F32, F64, I64, Array, Indices
from rag_hpc.core.record import granted_cpus
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.search import jvm
from rag_hpc.search.jvm import Analyzer, java, java_string, start
from rag_hpc.search.lucene import CONTENTS, ID


def analyze(texts: Sequence[str], analyzer: str = Analyzer.en.value, *, gaps: bool = False) -> list[list[str]]:
    """Return each text's terms in order, as an index of that analyser has them; gaps=True: "" where it has left one out
    before another."""
    start()
    shards = java("raghpc.Shards")
    found = (shards.analyzePhrases if gaps else shards.analyze)(jvm.analyzer(analyzer), _texts(texts))
    block = found.tostring()
    counts = np.frombuffer(block, "<i4", len(texts)).tolist()
    terms = iter(_read_texts(block, 4 * len(texts)))
    return [[next(terms) for _ in range(count)] for count in counts]


def num_threads(env: Mapping[str, str] = os.environ) -> int:
    """Return a process's threads: the CPUs of its Slurm task, else OMP_NUM_THREADS, else all that it was granted."""
    told = [env.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")]
    asked = next((int(number) for number in told if number.isdecimal()), granted_cpus())
    return max(1, min(asked, granted_cpus()))


class Shards:
    """Shards open as one; documents are numbered through them, in the order in which they were indexed."""

    def __init__(
        self, folders: Sequence[Path], *, threads: int = 1, heap_mib: int = 0, fields: Sequence[str] = (CONTENTS,)
    ) -> None:
        """fields: numbered in this order. Raises InputError for a folder that is no index, or has deleted documents."""
        start(heap_mib)
        paths, names = java("java.util.ArrayList")(), java("java.util.ArrayList")()
        for folder in folders:
            if not any(folder.glob("segments_*")):
                raise InputError(f"lexical: {folder} holds no Lucene index; unpack or build it first")
            paths.add(java_string(str(folder)))
        for name in fields:
            names.add(java_string(name))
        self._shards = java("raghpc.Shards")(paths, names, threads)
        deleted, *counts = np.frombuffer(self._shards.counts().tostring(), "<i8").tolist()
        self.num_docs, self.total_terms = counts[: 2 * len(fields) : 2], counts[1 : 2 * len(fields) : 2]  # by field
        sizes = counts[2 * len(fields) :]
        self.starts = np.cumsum([0, *sizes])  # of the shards, in documents; the last is where they end
        self.max_doc = int(self.starts[-1])
        if deleted:
            raise InputError(f"lexical: {deleted} documents of {folders} are deleted; merge or build the index anew")
        self._num_fields = len(fields)
        self._numbers: dict[str, int] = {}  # of the terms in self._batch, which has all of them in every field
        self._batch: Any = None

    def close(self) -> None:
        """Close the indexes' files."""
        self._shards.close()

    def df(self, terms: Iterable[str], field: int = 0) -> dict[str, int]:
        """Return the number of these shards' documents with each term in a field; 0 is included."""
        asked = sorted(set(terms))
        batch = self._batch_of(asked)
        counts_FT = np.frombuffer(batch.df().tostring(), "<i4").reshape(self._num_fields, -1)
        counts = counts_FT[field].tolist()
        return {term: counts[self._numbers[term]] for term in asked}

    def collection(self, terms: Iterable[str], field: int = 0) -> bm25.Collection:
        """Return these shards' statistics for the terms in a field, to be combined over all processes."""
        num_docs, total_terms = self.num_docs[field], self.total_terms[field]
        return bm25.Collection(num_docs=num_docs, total_terms=total_terms, df=self.df(terms, field))

    def ids(self, docs: Iterable[int]) -> list[str]:
        """Return the documents' own ids, in the order asked for."""
        return _read_texts(self._shards.stored(ID, np.asarray([*docs], dtype="<i4").tobytes()).tostring())

    def vectors(self, docs: Sequence[int]) -> list[dict[str, int]]:
        """Return how often each document has each of its terms, in the first field; {} where no vectors are stored."""
        block = self._shards.vectors(np.asarray(docs, dtype="<i4").tobytes()).tostring()
        sizes = np.frombuffer(block, "<i4", len(docs)).tolist()
        freqs = iter(np.frombuffer(block, "<i4", sum(sizes), 4 * len(docs)).tolist())
        terms = iter(_read_texts(block, 4 * (len(docs) + sum(sizes))))
        return [{next(terms): next(freqs) for _ in range(size)} for size in sizes]

    def top(self, queries: Sequence[bm25.Query], k: int) -> Hits:
        """Return the k best (scores_QK, docs_QK) by canonical score, ties by document; (-inf, -1) where there is none.

        Raises ConfigError for queries of different collections or parameters.
        """
        if len({(query.k1, query.b, query.avgdl) for query in queries}) > 1:
            raise ConfigError("bm25: the queries of a batch must share k1, b and the collection")
        if not queries or not self.max_doc:
            return _padded(*_NO_PAIRS, len(queries), k)
        rows, batch = self._rows(queries), self._batch
        weights = np.concatenate([query.weights_T for query in queries]).astype("<f8").tobytes()
        fields = range(self._num_fields)
        norms = b"".join(bm25.norms(bm25.LENGTHS_256, queries[0], f).astype("<f8").tobytes() for f in fields)
        queries_P, docs_P, sums_P = _pairs(batch.best(rows + weights, norms, k, bm25.SLACK), len(queries), "<f8")
        slack_P = bm25.SLACK * (np.array([len(query.terms) for query in queries])[queries_P] + 2)
        scores_P = (sums_P * (1 - slack_P)).astype(np.float32)
        undecided = np.nonzero(scores_P != (sums_P * (1 + slack_P)).astype(np.float32))[0]
        if len(undecided):
            scores_P[undecided] = self._canonical(queries, queries_P[undecided], docs_P[undecided])
        return _padded(queries_P, docs_P, scores_P, len(queries), k)

    def lucene(self, queries: Sequence[bm25.Query], whole: Sequence[bm25.Collection], k: int) -> Hits:
        """Return `top` as Lucene's own scorer has it with the whole collection's statistics, in float32 throughout.

        whole: of each field.
        """
        if not queries or not self.max_doc:
            return _padded(*_NO_PAIRS, len(queries), k)
        terms = {term for query in queries for term in query.terms}
        batch = self._batch_of(terms.union(*map(bm25.words_of, terms)))
        rows = self._rows(queries)
        boosts = [
            weight / bm25.term_idf(term, whole[field])
            for query in queries
            for term, weight, field in zip(query.terms, query.weights_T.tolist(), query.fields_T, strict=True)
        ]
        df = [max(1, one.df.get(term, 0)) for one in whole for term in self._numbers]
        shape = [k, *(count for one in whole for count in (one.num_docs, one.total_terms))]
        asked = rows + np.asarray(boosts, dtype="<f8").tobytes() + np.asarray(df, dtype="<i4").tobytes()
        block = batch.lucene(asked, np.asarray(shape, dtype="<i8").tobytes(), queries[0].k1, queries[0].b)
        return _padded(*_pairs(block, len(queries), "<f4"), len(queries), k)

    def term_freqs(self, queries: Sequence[bm25.Query], docs: Sequence[Iterable[int]]) -> list[tuple[I64, I64]]:
        """Return each query's (tf_KT, lengths_KF) of its documents, rising; lengths are of `bm25.LENGTHS_256`."""
        given = [np.asarray([*row], dtype="<i4") for row in docs]
        rows = self._rows(queries) + _rows(given)
        block = self._batch.frequencies(rows).tostring()
        sizes = [len(row) for row in given]
        num_codes = self._num_fields * sum(sizes)
        codes_KF = np.frombuffer(block, np.uint8, num_codes).reshape(-1, self._num_fields)
        codes = np.split(codes_KF, np.cumsum(sizes)[:-1])
        cells = np.frombuffer(block, "<i4", offset=num_codes).astype(np.int64)
        edges = np.cumsum([len(query.terms) * size for query, size in zip(queries, sizes, strict=True)])[:-1]
        parts = zip(np.split(cells, edges), queries, codes, strict=True)
        return [(part.reshape(len(row), len(query.terms)), bm25.LENGTHS_256[row]) for part, query, row in parts]

    def _canonical(self, queries: Sequence[bm25.Query], queries_P: Indices, docs_P: I64) -> F32:
        """Return the canonical scores of pairs, whose queries rise."""
        scores_P = np.empty(len(docs_P), dtype=np.float32)
        numbers, starts = np.unique(queries_P, return_index=True)
        parts = zip(starts, np.split(docs_P, starts[1:]), strict=True)
        groups = [start + np.argsort(docs, kind="stable") for start, docs in parts]
        asked = [queries[number] for number in numbers]
        found = self.term_freqs(asked, [docs_P[group] for group in groups])
        for query, group, (tf_KT, lengths_KF) in zip(asked, groups, found, strict=True):
            scores_P[group] = bm25.canonical_scores(tf_KT, lengths_KF, query)
        return scores_P

    def _rows(self, queries: Sequence[bm25.Query]) -> bytes:
        """Return the queries as rows of the batch's term numbers."""
        self._batch_of({term for query in queries for term in query.terms})
        numbers, size = self._numbers, len(self._numbers)
        fields = [np.array(query.fields_T, dtype="<i4") * size for query in queries]
        terms = [np.array([numbers[term] for term in query.terms], dtype="<i4") for query in queries]
        return _rows([first + term for first, term in zip(fields, terms, strict=True)])

    def _batch_of(self, terms: Iterable[str]) -> Any:
        """Return the batch of before where it has all of the terms: a search asks for df, then for hits."""
        asked = set(terms)
        if self._batch is None or not asked <= self._numbers.keys():
            self._numbers = {term: number for number, term in enumerate(sorted(asked))}
            fields = np.repeat(np.arange(self._num_fields, dtype="<i4"), len(asked))
            named = _coded(self._numbers) * self._num_fields
            self._batch = self._shards.batch(struct.pack("<i", len(fields)) + fields.tobytes() + named)
        return self._batch


_NO_PAIRS: tuple[Indices, I64, F64] = (np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0, np.float64))


def _pairs(block: Any, num_queries: int, scores: str) -> tuple[Indices, I64, Array]:
    """Return (queries_P, docs_P, scores_P) from a block of hits, queries rising."""
    block = block.tostring()
    counts = np.frombuffer(block, "<i4", num_queries)
    num_pairs, start = int(counts.sum()), counts.nbytes
    docs_P = np.frombuffer(block, "<i4", num_pairs, start).astype(np.int64)
    return (
        np.repeat(np.arange(num_queries), counts),
        docs_P,
        np.frombuffer(block, scores, num_pairs, start + 4 * num_pairs),
    )


def _padded(queries_P: Indices, docs_P: I64, scores_P: Array, num_queries: int, k: int) -> Hits:
    """Return (scores_QK, docs_QK), the k best of each query's pairs; queries rise."""
    counts = np.bincount(queries_P, minlength=num_queries)
    columns_P = np.arange(len(queries_P)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (num_queries, max(k, int(counts.max(initial=0))))
    scores_QC, docs_QC = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
    scores_QC[queries_P, columns_P], docs_QC[queries_P, columns_P] = scores_P, docs_P
    return merge_topk([(scores_QC, docs_QC)], k)


def _rows(rows: Sequence[Array]) -> bytes:
    """Return rows of unequal length as Java takes them: their number, all lengths, all values."""
    head = np.array([len(rows), *(len(row) for row in rows)], dtype="<i4")
    return bytes(np.concatenate([head, *rows]).astype("<i4").tobytes())


def _texts(texts: Sequence[str]) -> bytes:
    """Return texts as Java takes them: their number, and each as its length in UTF-8 and that."""
    return struct.pack("<i", len(texts)) + _coded(texts)


def _coded(texts: Iterable[str]) -> bytes:
    coded = [text.encode("utf-8", "replace") for text in texts]
    return b"".join(part for text in coded for part in (struct.pack("<i", len(text)), text))


def _read_texts(block: bytes, at: int = 0) -> list[str]:
    texts = []
    while at < len(block):
        end = at + 4 + int.from_bytes(block[at : at + 4], "little")
        texts.append(block[at + 4 : end].decode("utf-8", "replace"))
        at = end
    return texts
