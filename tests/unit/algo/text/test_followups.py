"""Questions that lean on the one before: what is searched for."""

from __future__ import annotations

import pytest

from rag_hpc.algo.text.followups import MOST, leans, searched_for

FIRST, SECOND = "Which function copies a whole folder?", "And does it copy symbolic links?"


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (SECOND, f"{SECOND} function copies whole folder"),
        ("And file times?", "And file times? function copies whole folder"),
        ("What about the sorted function?", "What about the sorted function? copies whole folder"),
        ("Symbolic links?", "Symbolic links? function copies whole folder"),
        ("How is a deque different from a list?", None),  # these stand by themselves
        ("What is a deque?", None),
        ("Und kopiert sie auch Links?", "Und kopiert sie auch Links? function copies whole folder"),
        ("¿Y ese copia enlaces?", "¿Y ese copia enlaces? function copies whole folder"),
        ("Does it copy a whole folder's function?", "Does it copy a whole folder's function? copies"),
    ],
)
def test_a_question_that_leans_on_another_takes_over_its_words(question: str, found: str | None) -> None:
    assert searched_for(question, [FIRST]) == (found or question)
    assert searched_for(question, []) == question


def test_a_chain_of_such_questions_keeps_its_subject_and_stays_short() -> None:
    assert searched_for("And then?", [FIRST, SECOND]).split()[2:6] == ["copy", "symbolic", "links", "function"]
    assert searched_for("And then?", [FIRST, "What does the sorted function return?"]).endswith(
        "sorted function return"
    )
    long = " ".join(f"word{n}" for n in range(50))
    assert len(searched_for("Why?", [long]).split()) == 1 + MOST and leans("Why?") and not leans(long)
