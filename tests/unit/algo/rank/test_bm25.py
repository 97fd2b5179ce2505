"""BM25 statistics: known values, the shard identity, and scores that no other document touches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.rank import bm25
from rag_hpc.errors import ConfigError, InputError


def score(tf: float, dl_quantized: float, weight: float, k1: float, b: float, avgdl: float) -> float:
    """Return one term's part of a document's score by the formula; weight: idf times occurrences in the query."""
    return weight * tf / (tf + k1 * (1 - b + b * dl_quantized / avgdl)) if tf else 0.0


def test_lengths_are_exact_to_forty_then_coarser() -> None:
    """The values are SmallFloat's, read from Lucene 9.9 (test_lucene compares them all)."""
    lengths = bm25.LENGTHS_256.tolist()
    assert lengths[:41] == list(range(41)) and lengths[-1] == 2_013_265_944
    assert {42, 60, 96, 984, 98_328} < set(lengths) and not {41, 43, 100} & set(lengths)


def test_idf_is_lucene_s() -> None:
    assert bm25.idf(1, 3) == math.log(1 + 2.5 / 1.5)
    assert bm25.idf(3, 3) > 0
    with pytest.raises(InputError, match="different indexes"):
        bm25.idf(4, 3)


def test_mean_length_is_that_of_documents_with_terms() -> None:
    assert bm25.Collection(num_docs=5, total_terms=60).avgdl == 12.0
    assert bm25.Collection(num_docs=0, total_terms=0).avgdl == 1.0


def test_query_keeps_repeats_as_weight_and_drops_unknown_words() -> None:
    whole = bm25.Collection(num_docs=10, total_terms=100, df={"b": 2, "a": 5, "x": 0})
    query = bm25.make_query(["b", "a", "b", "x", "unknown"], whole)
    assert query.terms == ["a", "b"]
    assert query.weights_T.tolist() == [bm25.idf(5, 10), 2 * bm25.idf(2, 10)]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bm25.make_query(["a"], whole, b=1.5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_terms=st.integers(1, 20))
def test_scores_have_the_same_bits_whatever_stands_beside_them(seed: int, num_terms: int) -> None:
    rng = np.random.default_rng(seed)
    terms = [f"t{i:02}" for i in range(num_terms)]
    whole = bm25.Collection(num_docs=500, total_terms=60_000, df={t: int(rng.integers(1, 500)) for t in terms})
    query = bm25.make_query(terms, whole)
    tf_KT, lengths_K = rng.integers(0, 5, (40, num_terms)), bm25.LENGTHS_256[rng.integers(1, 90, 40)]
    together = bm25.canonical_scores(tf_KT, lengths_K, query)
    alone = [bm25.canonical_scores(tf_KT[i : i + 1], lengths_K[i : i + 1], query) for i in range(40)]
    assert np.concatenate(alone).tobytes() == together.tobytes()
    term_by_term = [
        sum(score(tf, dl, w, query.k1, query.b, *query.avgdl) for tf, w in zip(row, query.weights_T, strict=True))
        for row, dl in zip(tf_KT, lengths_K, strict=True)
    ]
    np.testing.assert_allclose(together, term_by_term, rtol=1e-6)


def test_document_without_the_terms_scores_zero_even_with_k1_zero() -> None:
    query = bm25.make_query(["a"], bm25.Collection(num_docs=3, total_terms=9, df={"a": 1}), k1=0.0)
    scores = bm25.canonical_scores(np.array([[0], [1], [9]]), np.array([5, 5, 5]), query)
    assert scores.tolist() == [0.0, pytest.approx(bm25.idf(1, 3)), pytest.approx(bm25.idf(1, 3))]


def test_rank_breaks_ties_by_document() -> None:
    docs, scores = bm25.rank(np.array([9, 2, 5]), np.array([1.0, 1.0, 2.0], dtype=np.float32), 2)
    assert docs.tolist() == [5, 2] and scores.tolist() == [2.0, 1.0]
