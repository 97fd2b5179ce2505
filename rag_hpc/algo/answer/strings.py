"""How near an answer's text is to a gold answer's, by the measures of other fields; each needs a package of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from rag_hpc.errors import MissingDependency

PACKAGES = {"string_similarity": "rapidfuzz", "bleu": "sacrebleu", "chrf": "sacrebleu", "rouge_l": "rouge_score"}


def installed() -> list[str]:
    """Return the measures whose package is there."""
    return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]


def nearness(name: str, answer: str, golds: Sequence[str]) -> float:
    """Return the best value over the gold answers, of which there is one that is not blank; 0 to 1, larger is nearer.

    string_similarity: 1 - edits / length (Levenshtein). bleu: of one sentence, smoothed (Post 2018). chrf: Popović
    2015. rouge_l: F1 of the longest common subsequence of words (Lin 2004). Raises MissingDependency.
    """
    real = [gold for gold in golds if gold.strip()]
    try:
        return round(max(_value(name, answer, gold) for gold in real), 6)
    except ImportError as error:
        raise MissingDependency(
            f"evaluate: {name} needs the package {PACKAGES[name]}, which the run was planned with and which is not "
            "installed here; run: pip install 'rag-hpc[eval]'"
        ) from error


def _value(name: str, answer: str, gold: str) -> float:
    if name == "string_similarity":
        levenshtein: Any = importlib.import_module("rapidfuzz.distance").Levenshtein
        return float(levenshtein.normalized_similarity(answer, gold))
    if name == "rouge_l":
        rouge: Any = importlib.import_module("rouge_score.rouge_scorer")
        return float(rouge.RougeScorer(["rougeL"]).score(gold, answer)["rougeL"].fmeasure)
    sacrebleu: Any = importlib.import_module("sacrebleu")
    score = sacrebleu.sentence_bleu if name == "bleu" else sacrebleu.sentence_chrf
    return float(score(answer, [gold]).score) / 100
