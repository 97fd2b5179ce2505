"""Questions as BM25 queries that every rank's shards score alike: they carry the statistics of all ranks' shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.rm3 import Rm3
from rag_hpc.core.comm import Comm
from rag_hpc.errors import ConfigError
from rag_hpc.search.languages import ENGLISH, of_question
from rag_hpc.search.lucene import CONTENTS
from rag_hpc.search.shards import Shards, analyze


def check_feedback(how: Rm3, term_vectors: bool) -> None:
    """Raise ConfigError where queries are to be widened by documents whose words the index does not tell."""
    if how.fb_docs and not term_vectors:
        raise ConfigError(
            "stage.retrieve.rm3 reads the words of documents, which the index does not hold; "
            "set stage.lexical.term_vectors=true, or stage.retrieve.rm3.fb_docs=0"
        )


_QUOTED = re.compile('"([^"]+)"|\u201c([^\u201d]+)\u201d')


@dataclass(kw_only=True)
class FieldWeights:
    """What the score of each field of the index counts in a document's."""

    contents: float = 1.0  # the text, with whatever is no field of its own
    title: float = 1.0  # this and the next are there with stage.lexical.fields=[title,heading]
    heading: float = 1.0

    def __post_init__(self) -> None:
        if not all(weight >= 0 for weight in vars(self).values()):
            raise ConfigError(f"stage.retrieve.fields={vars(self)}: weights >= 0 are needed")


def weights_of(indexed: Sequence[str], asked: FieldWeights) -> list[float]:
    """Return the weight of the text and of each field indexed beside it.

    Raises ConfigError for the weight of a field that is not indexed, and where no field has a weight.
    """
    names, given = [CONTENTS, *indexed], vars(asked)
    usual = vars(FieldWeights())
    if absent := [name for name in given if name not in names and given[name] not in (0, usual[name])]:
        raise ConfigError(
            f"stage.retrieve.fields: {', '.join(absent)} is no field of the index, which has {', '.join(names)}; "
            f"index it with stage.lexical.fields=[{','.join([*indexed, *absent])}]"
        )
    if not any(given[name] for name in names):
        raise ConfigError(f"stage.retrieve.fields={given}: a field of the index needs a weight above 0")
    return [given[name] for name in names]


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
        self,
        shards: Shards,
        comm: Comm,
        indexed: Mapping[str, Any],
        k1: float,
        b: float,
        weights: Sequence[float],
        analyzers: Sequence[str] = (ENGLISH,),
    ) -> None:
        """indexed: the settings that the shards were made with; weights: of their fields; analyzers: of their texts,
        the commonest first."""
        self._shards, self._comm, self.analyzers = shards, comm, analyzers
        self._analyze = analyze_phrases if indexed.get("positions") else analyze
        self._k1, self._b, self._weights = k1, b, weights
        counts = np.array([shards.num_docs, shards.total_terms], dtype=np.int64)
        self._num_docs, self._total_terms = (row.tolist() for row in comm.sum(counts))

    def queries(self, texts: Sequence[str]) -> list[bm25.Query]:
        """Return each question's query."""
        return self.make(self.analyzed(texts))

    def analyzed(self, texts: Sequence[str]) -> list[list[str]]:
        """Return each question's terms."""
        named = [of_question(text, self.analyzers) for text in texts]
        rows: list[list[str]] = [[] for _ in texts]
        for analyzer in set(named):
            at = [row for row, name in enumerate(named) if name == analyzer]
            for row, words in zip(at, self._analyze([texts[row] for row in at], analyzer), strict=True):
                rows[row] = words
        return rows

    def make(self, rows: Sequence[Sequence[str] | Mapping[str, float]]) -> list[bm25.Query]:
        """Return the queries of terms, or of how often each counts."""
        wholes = self.collections({word for terms in rows for term in terms for word in bm25.words_of(term)})
        return [bm25.make_query(terms, wholes, self._k1, self._b, self._weights) for terms in rows]

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
