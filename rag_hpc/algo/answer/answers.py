"""Scores of a short answer against gold answers.

Source: Rajpurkar 2016 (SQuAD), and 2018 for questions without an answer; Cui 2019 (CMRC 2018) and the like count the
characters of Chinese and Japanese, and pass over punctuation of any width.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from rag_hpc.algo.text.words import CLUSTER

NOT_FOUND = "not found in the passages"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return the text in lower case without punctuation, articles and surplus white space; each character of a script
    without spaces stands alone."""
    plain = text.lower().translate(_PUNCTUATION)
    if not plain.isascii():
        plain = "".join(char for char in plain if unicodedata.category(char)[0] != "P")
        plain = CLUSTER.sub(r" \g<0> ", plain)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def is_not_found(text: str) -> bool:
    """Return whether the answer says that there is none, or is empty."""
    plain = normalize(text)
    return not plain or plain.startswith(normalize(NOT_FOUND))


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """Return 1.0 when the answer equals a gold answer after `normalize`, else 0.0. No gold means: there is none."""
    return _best(answer, golds, lambda a, g: float(a == g))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Return the best F1 of shared words over the gold answers, 0 to 1. No gold means: there is none."""
    return _best(answer, golds, _f1)


def _best(answer: str, golds: Sequence[str], score: Callable[[str, str], float]) -> float:
    real = [normalize(g) for g in golds if normalize(g)]
    if is_not_found(answer) or not real:
        return float(is_not_found(answer) and not real)
    return max(score(normalize(answer), gold) for gold in real)


def _f1(answer: str, gold: str) -> float:
    ours, theirs = answer.split(), gold.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))
