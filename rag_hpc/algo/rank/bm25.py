"""BM25 with the statistics of the whole collection, computed shard by shard without changing a rank or a bit.

Shapes: K documents, T query terms, F fields. Scores follow Lucene 9 (no `k1 + 1` factor), with Lucene's one-byte
document lengths. Source: Robertson and Zaragoza 2009, sec. 3; org.apache.lucene.search.similarities.BM25Similarity.
A document's score over several fields is the weighted sum of each field's own BM25, the "linear combination" of
Robertson, Zaragoza and Taylor 2004, as Anserini's and Lucene's boosted fields have it (and not their BM25F).


A phrase is a term of several words with NULs between them, nothing where any one word may stand. As in Lucene its idf
is the sum of its words', and what counts is how often it stands in a document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rag_hpc.algo.rank.impacts import MOST
from rag_hpc.algo.types import F32, F64, I64, Array
from rag_hpc.errors import ConfigError, InputError

BETWEEN = "\0"  # the words of a phrase


@dataclass(kw_only=True)
class Collection:
    """What BM25 needs to know about a set of documents, a shard or the whole, in one field."""

    num_docs: int  # documents with at least one term
    total_terms: int
    df: dict[str, int] = field(default_factory=dict)  # only of the terms that were asked for

    @property
    def avgdl(self) -> float:
        """Return the mean document length in terms (1.0 where there is no document, as nothing can match)."""
        return self.total_terms / self.num_docs if self.num_docs else 1.0


@dataclass(kw_only=True)
class Query:
    """A query that every shard scores alike: it carries the collection's statistics with it."""

    terms: list[str]  # of each field in turn: distinct, sorted, each in at least one document
    weights_T: F64  # occurrences in the query times the collection's idf, times the field's weight
    avgdl: tuple[float, ...]  # of the collection, in each field
    k1: float
    b: float
    fields_T: list[int]  # the number of each term's field
    impacts: bool = False  # frequencies are impacts, which count as they stand: no BM25 but a product of vectors

    @property
    def most(self) -> float:
        """Return what no document's score is above."""
        return float(self.weights_T.sum()) * (MOST if self.impacts else 1)


def make_query(
    words: Sequence[str] | Mapping[str, float],
    whole: Collection | Sequence[Collection],
    k1: float = 0.9,
    b: float = 0.4,
    weights: Sequence[float] = (),
) -> Query:
    """Return the query for the analysed words of a question; words that no document has are left out.

    words: or how often each one counts. whole: of each field, where there are several; weights: of each field, 1 where
    none are given.
    """
    if k1 < 0 or not 0 <= b <= 1:
        raise ConfigError(f"bm25: k1={k1}, b={b}: k1 must be at least 0 and b between 0 and 1; try k1=0.9 b=0.4")
    counts: dict[str, float] = dict(words) if isinstance(words, Mapping) else {}
    if not isinstance(words, Mapping):
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    wholes = [whole] if isinstance(whole, Collection) else list(whole)
    terms: list[str] = []
    fields_T: list[int] = []
    weights_T: list[float] = []
    for number, (one, weight) in enumerate(zip(wholes, weights or [1.0] * len(wholes), strict=True)):
        held = sorted(t for t in counts if weight and counts[t] and all(one.df.get(w, 0) for w in words_of(t)))
        terms += held
        fields_T += [number] * len(held)
        weights_T += [weight * (counts[t] * term_idf(t, one)) for t in held]
    avgdl = tuple(one.avgdl for one in wholes)
    return Query(terms=terms, weights_T=np.asarray(weights_T, np.float64), avgdl=avgdl, k1=k1, b=b, fields_T=fields_T)


def impact_query(impacts: Mapping[str, int]) -> Query:
    """Return the query whose score is the product of its impacts and a document's."""
    terms = sorted(impacts)
    weights_T = np.array([impacts[term] for term in terms], dtype=np.float64)
    return Query(terms=terms, weights_T=weights_T, avgdl=(1.0,), k1=0.0, b=0.0, fields_T=[0] * len(terms), impacts=True)


def words_of(term: str) -> list[str]:
    """Return a phrase's words, or the one of a term that is no phrase."""
    return [word for word in term.split(BETWEEN) if word] if BETWEEN in term else [term]


def term_idf(term: str, whole: Collection) -> float:
    """Return the sum of the idfs of a term's words."""
    return sum(idf(whole.df[word], whole.num_docs) for word in words_of(term))


def idf(df: int, num_docs: int) -> float:
    """Return Lucene's inverse document frequency, ln(1 + (N - df + 0.5) / (df + 0.5)); never negative."""
    if not 0 <= df <= num_docs:
        raise InputError(f"bm25: df={df} of {num_docs} documents: the statistics come from different indexes")
    return math.log(1 + (num_docs - df + 0.5) / (df + 0.5))


def canonical_scores(tf_KT: Array, lengths_KF: Array, query: Query) -> F32:
    """Return float32 scores, each summed in float64 over all of the query's terms in their order.

    lengths_KF: of LENGTHS_256; of one field, the K lengths alone will do. A document's bits depend on its own tf and
    lengths and on the query only, so that shards merge to what one index gives.
    """
    tf_KT = np.ascontiguousarray(tf_KT, dtype=np.float64)
    if query.impacts:
        products_K: F32 = (query.weights_T[None] * tf_KT).sum(-1).astype(np.float32)
        return products_K
    lengths_KF = np.reshape(lengths_KF, (len(tf_KT), len(query.avgdl)))
    norms_KF = np.stack([norms(column, query, field) for field, column in enumerate(lengths_KF.T)], axis=1)
    below_KT = np.where(tf_KT > 0, tf_KT + norms_KF[:, query.fields_T], 1.0)
    scores_K: F32 = (query.weights_T[None] * tf_KT / below_KT).sum(-1).astype(np.float32)
    return scores_K


def norms(lengths_K: Array, query: Query, field: int = 0) -> F64:
    """Return what each document's length in a field adds to a term's frequency below the fraction; -1 for impacts."""
    lengths_K = np.asarray(lengths_K, dtype=np.float64)
    if query.impacts:
        return np.full(len(lengths_K), -1.0)
    return np.asarray(query.k1 * (1 - query.b + query.b * lengths_K / query.avgdl[field]))


def error_bound(query: Query) -> float:
    """Return how far Lucene's float32 score with the collection's statistics may lie from `canonical_scores`.

    Each term is `w - w / (1 + tf / norm)` in float32 with rounded w, k1, b and mean length: under 16 roundings of a
    number no larger than w.
    """
    return 16 * 2.0**-23 * float(query.weights_T.sum())


def rank(docs_K: I64, scores_K: F32, k: int) -> tuple[I64, F32]:
    """Return the k best (docs, scores) by (score descending, doc ascending)."""
    order = np.lexsort((docs_K, -scores_K))[:k]
    return docs_K[order], scores_K[order]


def _decode_length(code: int) -> int:
    if code < _EXACT:
        return code
    shift, low = (code - _EXACT >> 3) - 1, (code - _EXACT) & 7
    return _EXACT + (low if shift < 0 else (low | 8) << shift)


# Two float64 sums of T non-negative terms in different orders differ by less than 2 (T - 1) 2^-53 of themselves (Higham
# 2002, sec. 4.2); this times T + 2 is twice that, which covers the roundings of the bounds made from them too.
SLACK = 2.0**-51

# 2^31 - 1 takes code 231 of Lucene's 4-bit float, so 24 of the 256 codes are free for exact small lengths
_EXACT = 24
LENGTHS_256: I64 = np.array([_decode_length(c) for c in range(256)], dtype=np.int64)
