"""Citations are found, and each is checked against the passage it names."""

from __future__ import annotations

import pytest

from rag_hpc.algo.answer.cite import (
    Quote,
    check_quotes,
    parse_citations,
    uncited_sentences,
    verdicts,
    verify_citations,
)
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.text.words import content_words

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


def test_answer_without_citations_has_no_checks() -> None:
    assert verify_citations("open returns a file.", [FILES]) == verify_citations("", [FILES]) == []


def test_stop_words_carry_no_meaning() -> None:
    assert content_words("What is the default_mode of it?") == ["default_mode"]


def test_a_quote_holds_only_as_it_stands_and_before_its_citation() -> None:
    quote = Quote(number=1, start=30, end=54, score=0.9)
    assert FILES.text[quote.start : quote.end] == "The default mode is 'r'."
    for answer, reason in (
        ("open: The default\nmode is 'r'. [1]", "quoted"),
        ("The default mode is 'r'. … [1]", "quoted"),
        ("The default mode is 'w'. [1]", "misquoted"),
        ("The default mode is 'r'. [2]", "misquoted"),
    ):
        (check,) = check_quotes(answer, [quote], [FILES, SLURM])
        assert (check.reason, check.supported, check.start, check.end) == (reason, reason == "quoted", 30, 54)


def test_sentences_of_a_model_that_stand_in_the_passage_are_quoted_with_their_place() -> None:
    answer = "The default mode is 'r' [1]. So the mode of open is 'r' by default [1]. Cheese is blue [2]."
    checks = verify_citations(answer, [FILES, SLURM])
    assert [(c.reason, FILES.text[c.start : c.end] if c.start >= 0 else "") for c in checks] == [
        ("quoted", "The default mode is 'r'."),
        ("supported", ""),
        ("weak", ""),
    ]
    assert verdicts(vars(c) for c in checks) == {1: "supported", 2: "not supported"}


def test_sentences_that_name_no_passage_are_told() -> None:
    answer = (
        'Fish live in water. [1] They have gills [2]. Birds fly. It is so "in. water" there [1, 2]. And? `a[1]` rots.'
    )
    assert uncited_sentences(answer) == ["Birds fly.", "`a[1]` rots."]
    assert uncited_sentences("") == []
