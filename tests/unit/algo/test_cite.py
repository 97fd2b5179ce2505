"""Citations are found, and each is checked against the passage it names."""

from __future__ import annotations

import pytest

from rag_hpc.algo.cite import (
    citation_precision,
    content_words,
    parse_citations,
    uncited_sentences,
    verify_citations,
)
from rag_hpc.algo.prompt import Passage

FILES = Passage(chunk_id="0", doc_id="io", title="open", text="open() returns a file object.\nThe default mode is 'r'.")
SLURM = Passage(chunk_id="1", doc_id="slurm", title="sbatch", text="sbatch submits a batch script to Slurm.")


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("It opens [2]. It closes [1][2].", [2, 1]),
        ("Both [1, 3; 2].", [1, 3, 2]),
        ("It is 4[1].", [1]),
        ("Write `a[1]` or ```\nb[2]\n``` there [3].", [3]),
        ("None [0], [x], [1.5], [].", []),
    ],
)
def test_citations_are_parsed_in_order(answer: str, numbers: list[int]) -> None:
    assert parse_citations(answer) == numbers


def test_supported_weak_and_missing_are_told_apart() -> None:
    answer = "open returns a file object [1]. Cats like fish a lot [1]. sbatch submits [7]. Nobody said this."
    checks = verify_citations(answer, [FILES, SLURM])
    assert [(c.citation, c.supported, c.reason) for c in checks] == [
        (1, True, "supported"),
        (1, False, "weak"),
        (7, False, "no-such-passage"),
    ]
    assert checks[0].support == 1.0 and checks[0].sentence == "open returns a file object."
    assert citation_precision(checks) == pytest.approx(1 / 3)
    assert uncited_sentences(answer) == ["Nobody said this."]


@pytest.mark.parametrize("gap", [" ", ""])
def test_citation_after_the_full_stop_belongs_to_the_sentence_before(gap: str) -> None:
    answer = f"open returns a file object.{gap}[1] sbatch submits a batch script.{gap}[2]"
    checks = verify_citations(answer, [FILES, SLURM])
    assert [(c.citation, c.supported) for c in checks] == [(1, True), (2, True)]


def test_right_sentence_with_the_wrong_number_is_weak() -> None:
    assert [c.reason for c in verify_citations("sbatch submits a batch script [1].", [FILES, SLURM])] == ["weak"]


def test_quotation_must_stand_word_for_word() -> None:
    right = 'It says "returns a file object. The default" [1].'
    wrong = 'open returns a file object: "returns a default file object" [1].'
    assert [c.reason for c in verify_citations(right, [FILES])] == ["supported"]
    assert [c.reason for c in verify_citations(wrong, [FILES])] == ["misquoted"]


def test_threshold_decides() -> None:
    answer = "open returns bananas daily [1]."
    assert [c.supported for t in (0.5, 0.6) for c in verify_citations(answer, [FILES], t)] == [True, False]


def test_answer_without_citations_has_no_precision() -> None:
    assert citation_precision(verify_citations("open returns a file.", [FILES])) == 0.0
    assert verify_citations("", [FILES]) == [] and uncited_sentences("") == []


def test_stop_words_carry_no_meaning() -> None:
    assert content_words("What is the default_mode of it?") == ["default_mode"]
