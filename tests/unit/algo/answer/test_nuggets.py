"""Nugget recall by the arithmetic of its source."""

from __future__ import annotations

import pytest

from rag_hpc.algo.answer.nuggets import NONE, PARTIAL, SUPPORT, Nugget, nugget_scores, support

WATER = Nugget(text="fish live in water", vital=True)


@pytest.mark.parametrize(
    ("answer", "value"),
    [("Fish are living in the water.", SUPPORT), ("Fish live in trees.", PARTIAL), ("Birds fly.", NONE), ("", NONE)],
)
def test_a_nugget_is_supported_by_its_words(answer: str, value: float) -> None:
    assert support(WATER, answer) == value


def test_scores_by_hand() -> None:
    nuggets = [WATER, Nugget(text="b", vital=True), Nugget(text="c", vital=False)]
    assert nugget_scores(nuggets, [SUPPORT, PARTIAL, SUPPORT]) == pytest.approx(
        {
            "nuggets_all": 2.5 / 3,
            "nuggets_all_strict": 2 / 3,
            "nuggets_vital": 0.75,
            "nuggets_vital_strict": 0.5,
            "nuggets_weighted": (1 + 0.5 + 0.5) / 2.5,
        }
    )


def test_without_vital_ones_or_any_there_is_no_such_score() -> None:
    assert set(nugget_scores([Nugget(text="c", vital=False)], [NONE])) == {
        "nuggets_all",
        "nuggets_all_strict",
        "nuggets_weighted",
    }
    assert nugget_scores([], []) == {}
