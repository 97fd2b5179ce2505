"""Compression: what is left out, that it is counted, and that citations are held against the whole passages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from generators import FISH, SLURM, by_words, passage

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Answer, not_found
from rag_hpc.generators.compress import best_sentences, restored, summarised, without_near
from rag_hpc.generators.config import CompressConfig, GeneratorConfig
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.schema import from_plain
from rag_hpc.search.answer import checked

AGAIN = passage("Fish live in water. They have gills!", "fish again", "c3", "d3")
HEAPQ = passage(
    "heapq.nlargest(n, iterable)\n\nFind the n largest elements.\n\nheapq.merge(*iterables)\n\nMerge sorted inputs.",
    "heapq",
    "c4",
)


def test_a_passage_near_a_better_one_is_left_out() -> None:
    kept, counts = without_near([FISH, SLURM, AGAIN], 0.95, by_words)
    assert kept == [FISH, SLURM] and counts == {"passages_near_others": 1}
    assert without_near([FISH, AGAIN], 1.0, by_words) == ([FISH, AGAIN], {})


def test_the_best_sentences_stay_in_their_order_below_their_signature() -> None:
    kept, counts = best_sentences("How do I find the largest elements?", [FISH, HEAPQ], 1, by_words)
    assert [one.text for one in kept] == ["heapq.nlargest(n, iterable)\n\nFind the n largest elements."]
    assert kept[0].whole == HEAPQ.text and counts == {"passages_without_best": 1, "sentences_left_out": 3}
    assert best_sentences("Fish?", [FISH], 99, by_words) == ([FISH], {})
    assert restored(kept) == [HEAPQ]


def test_quotes_of_a_cut_passage_are_found_in_the_whole_one() -> None:
    question = "How do I ask for more time?"
    kept, _ = best_sentences(question, [FISH, SLURM], 1, by_words)
    answer = ExtractiveGenerator(by_words, 0.0).generate(question, kept)
    answered = checked(answer, kept)
    assert answered.passages == [SLURM] and [check.reason for check in answered.checks] == ["quoted"]
    (check,) = answered.checks
    assert SLURM.text[check.start : check.end] == "Use --time to ask for more." and check.start > 0


def test_summaries_are_held_against_what_they_were_made_from() -> None:
    def write(question: str, passages: Sequence[Passage]) -> Answer:
        if "Fish" in passages[0].text:
            return not_found()
        return Answer(text="The limit is 240 minutes [1].", citations=[1], found=True)

    kept, counts = summarised("What is the limit?", [FISH, SLURM], write)
    assert counts == {"passages_summarised": 1, "passages_beside_the_point": 1}
    assert [(one.text, one.whole) for one in kept] == [("The limit is 240 minutes.", SLURM.text)]
    said = Answer(text="Longer jobs are killed [1]. Penguins rule astronomy [1].", citations=[1], found=True)
    assert [check.reason for check in checked(said, kept).checks] == ["quoted", "weak"]
    assert summarised("?", [FISH], write)[0] == [FISH]  # rather than nothing


def test_by_default_nothing_is_left_out_and_what_cannot_be_is_refused() -> None:
    assert not CompressConfig().is_on and CompressConfig(near=0.95).needs_encoder
    with pytest.raises(ConfigError, match=r"generator\.compress\.near=1.5: between 0 and 1"):
        CompressConfig(near=1.5)
    with pytest.raises(ConfigError, match="the extractive generator writes no summaries"):
        from_plain(GeneratorConfig, {"compress": {"summarise_above": 4000}})
