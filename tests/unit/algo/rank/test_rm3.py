"""RM3 worked out by hand, and its choices."""

from __future__ import annotations

import pytest

from rag_hpc.algo.rank.rm3 import Rm3, candidates, widened
from rag_hpc.errors import ConfigError

DF = {"wing": 4, "flow": 5, "lift": 1, "the": 90, "drag": 2}


def test_the_words_of_the_first_documents_count_by_their_share_and_score() -> None:
    feedback = [(3.0, {"wing": 2, "flow": 1, "the": 9}), (1.0, {"flow": 1, "lift": 1})]
    counts = widened(["lift", "lift", "jet"], feedback, DF, 100, Rm3(fb_terms=2, original_weight=0.25))
    # wing 2/3 * 3 = 2, flow 1/3 * 3 + 1/2 * 1 = 1.5, lift 0.5; "the" is too common; two are kept
    assert counts == pytest.approx({"jet": 0.25 / 3, "lift": 0.5 / 3, "flow": 0.75 * 1.5 / 3.5, "wing": 0.75 * 2 / 3.5})
    assert list(counts) == sorted(counts) and sum(counts.values()) == pytest.approx(1)


def test_of_equal_words_the_first_in_the_alphabet_are_kept() -> None:
    feedback = [(2.0, {"wing": 1, "drag": 1, "flow": 1})]
    assert list(widened([], feedback, DF, 100, Rm3(fb_terms=2))) == ["drag", "flow"]


def test_a_query_that_finds_nothing_keeps_its_words() -> None:
    assert widened(["a1", "b1"], [], {}, 10, Rm3()) == {"a1": 0.25, "b1": 0.25}
    assert widened(["flow"], [(1.0, {"the": 3})], DF, 100, Rm3(original_weight=1.0)) == {"flow": 1.0}


def test_which_words_may_widen() -> None:
    words = {"x": 1, "ok": 2, "caf\u00e9": 1, "a" * 21: 1, "c++": 1, "\u043f\u043e\u043b\u0435\u0442": 3, "2024": 1}
    assert candidates(words, ascii_only=True) == {"ok": 2, "2024": 1}
    assert set(candidates(words, ascii_only=False)) == {"ok", "2024", "caf\u00e9", "\u043f\u043e\u043b\u0435\u0442"}


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage\.retrieve\.rm3: fb_docs >= 0"):
        Rm3(fb_docs=-1)
    with pytest.raises(ConfigError, match="original_weight <= 1"):
        Rm3(original_weight=1.5)
