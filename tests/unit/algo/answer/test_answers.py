"""Answer scores follow SQuAD's rules, and an answer that does not exist is scored too."""

from __future__ import annotations

import pytest

from rag_hpc.algo.answer.answers import NOT_FOUND, exact_match, is_not_found, normalize, token_f1


def test_normalization_drops_case_articles_and_punctuation() -> None:
    assert normalize("  The  Quick-brown fox, an animal! ") == "quickbrown fox animal"
    assert normalize("theory") == "theory"


@pytest.mark.parametrize(
    ("answer", "golds", "f1", "match"),
    [
        ("The Eiffel Tower", ["Eiffel tower."], 1.0, 1.0),
        ("in Paris", ["Paris", "Lyon"], 2 / 3, 0.0),
        ("blue blue", ["blue"], 2 / 3, 0.0),
        ("red", ["blue"], 0.0, 0.0),
        ("4 hours", ["3 days", "4 hours"], 1.0, 1.0),
        (NOT_FOUND, ["Paris"], 0.0, 0.0),
        ("Paris", [], 0.0, 0.0),
        ("Paris", ["", " the "], 0.0, 0.0),
        ("Not found in the passages.", [], 1.0, 1.0),
        ("", [""], 1.0, 1.0),
    ],
)
def test_scores(answer: str, golds: list[str], f1: float, match: float) -> None:
    assert token_f1(answer, golds) == pytest.approx(f1)
    assert exact_match(answer, golds) == match


def test_not_found_is_recognised_with_a_reason_after_it() -> None:
    assert is_not_found("Not found in the passages: they speak of fish.")
    assert not is_not_found("The file was not found.")
