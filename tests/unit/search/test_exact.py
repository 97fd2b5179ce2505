"""Which questions are searched exactly beside an index."""

from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.search.exact import SAMPLE, UP_TO, Exact, check_exact, resolved, sampled
from rag_hpc.stores.hits import Method


def test_auto_searches_few_passages_exactly_and_of_many_questions_a_sample() -> None:
    assert resolved(Exact.auto, UP_TO, indexed=True) is Exact.always
    assert resolved(Exact.auto, UP_TO + 1, indexed=True) is Exact.sample
    assert resolved(Exact.auto, 10 * UP_TO, indexed=True, method=Method.dense) is Exact.always
    assert resolved(Exact.never, 10, indexed=True) is Exact.never
    assert {resolved(exact, 10 * UP_TO, indexed=False) for exact in Exact} == {Exact.always}


def test_dense_needs_exact_search_where_there_is_an_index() -> None:
    for exact in (Exact.sample, Exact.never):
        check_exact(exact, Method.dense, indexed=False)
        check_exact(exact, Method.fused, indexed=True)
        with pytest.raises(ConfigError, match=f"exact={exact.value} leaves it out"):
            check_exact(exact, Method.dense, indexed=True)


def test_sample_is_drawn_over_all_questions_and_is_all_of_few() -> None:
    assert sampled(3).tolist() == [0, 1, 2] and len(sampled(0)) == 0
    drawn = sampled(10_000)
    assert len(set(drawn.tolist())) == SAMPLE and (np.diff(drawn) > 0).all() and drawn.max() > 9_000
    assert (drawn == sampled(10_000)).all()
