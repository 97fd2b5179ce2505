"""Nugget recall: which of the facts that a good answer holds an answer does hold.

Scores as in Pradeep 2025 (arXiv 2504.15068), sec. 3: a nugget is vital or okay, and supported, in part or not. Which it
is, is told by words here, not by a model: strong over the questions of a run, weak for a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_hpc.algo.answer.sentences import words_of

SUPPORT, PARTIAL, NONE = 1.0, 0.5, 0.0
HELD, HELD_IN_PART = 0.8, 0.5  # share of a nugget's words


@dataclass(frozen=True, kw_only=True)
class Nugget:
    """A fact. vital: an answer that lacks it is not good; else it is okay to have."""

    text: str
    vital: bool


def support(nugget: Nugget, answer: str) -> float:
    """Return SUPPORT, PARTIAL or NONE, by the share of the nugget's words that the answer holds."""
    words = words_of(nugget.text)
    share = len(words & words_of(answer)) / len(words) if words else 0.0
    return SUPPORT if share >= HELD else PARTIAL if share >= HELD_IN_PART else NONE


def nugget_scores(nuggets: Sequence[Nugget], supports: Sequence[float]) -> dict[str, float]:
    """Return the scores of an answer, 0 to 1; those of vital nuggets are left out where there is none.

    nuggets_all and nuggets_vital take half a nugget for a half; the strict ones do not; nuggets_weighted takes half of
    okay ones.
    """
    pairs = list(zip(nuggets, supports, strict=True))
    vital = [value for nugget, value in pairs if nugget.vital]
    weights = [1.0 if nugget.vital else 0.5 for nugget in nuggets]
    scores = {}
    for name, values in (("all", list(supports)), ("vital", vital)):
        if values:
            scores[f"nuggets_{name}"] = sum(values) / len(values)
            scores[f"nuggets_{name}_strict"] = sum(value == SUPPORT for value in values) / len(values)
    if weights:
        scores["nuggets_weighted"] = sum(w * v for w, v in zip(weights, supports, strict=True)) / sum(weights)
    return scores
