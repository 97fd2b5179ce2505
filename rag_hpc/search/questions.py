"""Questions as BM25 queries that every rank's shards score alike: they carry the statistics of all ranks' shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.core.comm import Comm
from rag_hpc.errors import ConfigError
from rag_hpc.search.jvm import Analyzer
from rag_hpc.search.lucene import CONTENTS
from rag_hpc.search.shards import Shards, analyze

_QUOTED = re.compile('"([^"]+)"|\u201c([^\u201d]+)\u201d')


def field_weights(indexed: Sequence[str], asked: Mapping[str, float]) -> list[float]:
    """Return the weight of the text and of each field indexed beside it: those asked for, else 1 each.

    Raises ConfigError for a field that is not indexed, and for weights of which none is above 0.
    """
    names = [CONTENTS, *indexed]
    if unknown := [name for name in asked if name not in names]:
        raise ConfigError(
            f"stage.retrieve.fields: {', '.join(unknown)} is no field of the index, which has {', '.join(names)}; "
            "stage.lexical.fields=[title,heading] indexes more"
        )
    weights = [float(asked.get(name, 0.0) if asked else 1.0) for name in names]
    if min(weights) < 0 or not any(weights):
        raise ConfigError(f"stage.retrieve.fields={dict(asked)}: weights >= 0 are needed, and one above 0")
    return weights


def analyze_phrases(texts: Sequence[str], analyzer: str) -> list[list[str]]:
    """Return each question's terms, the phrases that stand in quotes after the others."""
    quoted = [["".join(pair) for pair in _QUOTED.findall(text)] for text in texts]
    words = analyze([_QUOTED.sub(" ", text) for text in texts], analyzer)
    phrases = iter(analyze([phrase for row in quoted for phrase in row], analyzer, gaps=True))
    joined = [[bm25.BETWEEN.join(next(phrases)).strip(bm25.BETWEEN) for _ in row] for row in quoted]
    return [row + [phrase for phrase in more if phrase] for row, more in zip(words, joined, strict=True)]


class Questions:
    """Makes queries. Every rank must make the same calls, since ranks add up what their shards count."""

    def __init__(
        self, shards: Shards, comm: Comm, indexed: Mapping[str, Any], k1: float, b: float, weights: Sequence[float]
    ) -> None:
        """indexed: the settings that the shards were made with; weights: of their fields."""
        self._shards, self._comm = shards, comm
        self._analyzer = indexed.get("analyzer", Analyzer.en.value)  # runs of before have no other
        self._analyze = analyze_phrases if indexed.get("positions") else analyze
        self._k1, self._b, self._weights = k1, b, weights
        counts = np.array([shards.num_docs, shards.total_terms], dtype=np.int64)
        self._num_docs, self._total_terms = (row.tolist() for row in comm.sum(counts))

    def queries(self, texts: Sequence[str]) -> list[bm25.Query]:
        """Return each question's query."""
        analyzed = self._analyze(texts, self._analyzer)
        wholes = self.collections({word for terms in analyzed for term in terms for word in bm25.words_of(term)})
        return [bm25.make_query(words, wholes, self._k1, self._b, self._weights) for words in analyzed]

    def collections(self, terms: Iterable[str]) -> list[bm25.Collection]:
        """Return what all ranks' shards count of the terms, in each field."""
        terms, fields = sorted(terms), range(len(self._weights))
        counts = [self._shards.df(terms, field) for field in fields]
        local = np.array([[one[term] for term in terms] for one in counts], dtype=np.int64)
        df = [dict(zip(terms, row, strict=True)) for row in self._comm.sum(local).tolist()]
        return [
            bm25.Collection(num_docs=self._num_docs[field], total_terms=self._total_terms[field], df=df[field])
            for field in fields
        ]
