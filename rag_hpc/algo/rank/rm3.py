"""RM3: a query widened by the words of the documents that it finds first.

Every sum runs over rising words or falling ranks, so that its bits do not depend on where the documents lie. Source:
Abdul-Jaleel and others 2004 (UMass at TREC 2004), with the choices of Anserini's Rm3Reranker: words of 2 to 20
characters that at most a tenth of all documents have, of each document the most frequent, of all the heaviest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag_hpc.errors import ConfigError

COMMON = 0.1  # of all documents; a word of more says nothing of relevance
_ASCII_WORD = re.compile("[a-z0-9]{2,20}")


@dataclass(kw_only=True)
class Rm3:
    """How a query is widened; Anserini's defaults, but for the first."""

    fb_docs: int = 0  # documents taken for relevant; 0 = queries stay as they are asked, Anserini takes 10
    fb_terms: int = 10  # words taken from them
    original_weight: float = 0.5  # of the question's own words

    def __post_init__(self) -> None:
        if self.fb_docs < 0 or self.fb_terms < 1 or not 0 <= self.original_weight <= 1:
            raise ConfigError(
                "stage.retrieve.rm3: fb_docs >= 0, fb_terms >= 1 and 0 <= original_weight <= 1 are needed; "
                "try {fb_docs: 10, fb_terms: 10, original_weight: 0.5}"
            )


def candidates(freqs: Mapping[str, int], *, ascii_only: bool) -> dict[str, int]:
    """Return the words of a document that may widen a query, before it is known how common they are.

    ascii_only: as Anserini, whose words of other alphabets are never taken; else they are, of any letters and digits.
    """
    fits = _ASCII_WORD.fullmatch if ascii_only else _any_word
    return {word: freq for word, freq in freqs.items() if fits(word)}


def widened(
    words: Sequence[str],
    feedback: Iterable[tuple[float, Mapping[str, int]]],
    df: Mapping[str, int],
    num_docs: int,
    how: Rm3,
) -> dict[str, float]:
    """Return how much each word counts in the widened query.

    feedback: of the first documents in order, their score and the frequencies of their `candidates`. df, num_docs: of
    the collection, empty documents included.
    """
    weights: dict[str, float] = {}
    for score, freqs in feedback:
        kept = _heaviest({word: freq for word, freq in freqs.items() if df[word] <= COMMON * num_docs}, how.fb_terms)
        total = sum(kept.values())
        for word, freq in kept.items():
            weights[word] = weights.get(word, 0.0) + freq / total * score
    relevance = _shares(_heaviest(weights, how.fb_terms))
    counts: dict[str, float] = {}
    for word in words:
        counts[word] = counts.get(word, 0.0) + 1.0
    own = _shares(counts)
    mixed = {
        word: how.original_weight * own.get(word, 0.0) + (1 - how.original_weight) * relevance.get(word, 0.0)
        for word in sorted({*own, *relevance})
    }
    return {word: weight for word, weight in mixed.items() if weight > 0}


def _any_word(word: str) -> bool:
    return 2 <= len(word) <= 20 and word.isalnum()


def _heaviest(weights: Mapping[str, float], k: int) -> dict[str, float]:
    """Return the k words of most weight; of equal ones the first in the alphabet."""
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:k])


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights that sum to 1."""
    total = sum(weights[word] for word in sorted(weights))
    return {word: weight / total for word, weight in weights.items()} if total else {}
