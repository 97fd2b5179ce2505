"""What a generator is: a question and its passages in, an answer with citations out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rag_hpc.algo.answer.answers import NOT_FOUND, is_not_found
from rag_hpc.algo.answer.cite import Quote as Quote
from rag_hpc.algo.answer.cite import parse_citations
from rag_hpc.algo.answer.prompt import Passage as Passage
from rag_hpc.algo.types import Array

Encode = Callable[[str, Sequence[str]], Array]  # a question and N sentences to 1 + N vectors, the question's first


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to one question."""

    text: str
    citations: list[int] = field(default_factory=list)  # passage numbers from 1, in order of appearance
    found: bool
    short: str = ""  # the few words that answer, for comparison with short gold answers
    quotes: list[Quote] = field(default_factory=list)  # what of the text is a passage's own, each with its citation
    score: float | None = None  # how likely the passages hold the answer, where the generator can tell
    counts: dict[str, int] = field(default_factory=dict)  # tokens and the like, summed in the record


class Generator(Protocol):
    """Answers from passages, which it takes as data and never as instructions."""

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the answer; the same question and passages give the same answer. Passages are numbered from 1."""

    def close(self) -> None:
        """Free what it holds, processes above all. It answers no more."""


def not_found(score: float | None = None, counts: dict[str, int] | None = None) -> Answer:
    """Return the answer that the passages hold none."""
    return Answer(text=NOT_FOUND, found=False, short=NOT_FOUND, score=score, counts=counts or {})


def answer_of(text: str, num_passages: int, counts: dict[str, int]) -> Answer:
    """Return what a language model said as an answer, with its citations of passages that there are."""
    if is_not_found(text):
        return not_found(counts=counts)
    citations = [number for number in parse_citations(text) if number <= num_passages]
    return Answer(text=text, citations=citations, found=True, short=text, counts=counts)
