"""How likely a sentence answers a question: by the cosine of their vectors, the words that they share, and its place.

S sentences, F features, D dimensions. Weights are round numbers; with BIAS 70 % of questions whose article was left out
lie below one half. What they were chosen by, and what they do with other questions: `rag-hpc bench answers`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.answer.sentences import Sentence, words_of
from rag_hpc.algo.text.words import num_words
from rag_hpc.algo.types import F64, I64, Array

DIGITS = 4  # of a cosine; what lies behind them may depend on the machine
COSINE, BIAS = 8.0, -5.85
WEIGHTS = np.array([2.5, 1.0, 1.0, 1.0, 0.5, -2.0])  # of the features of `by_words`, in their order
SHORT, LONG = 4, 30  # words of a sentence: fewer are no prose, more count no further

_NAME = re.compile(r"(?<!^)(?<![.?!] )\b[A-Z][\w-]*")  # not at the start of a sentence


def by_words(question: str, passages: Sequence[Passage], sentences: Sequence[Sentence]) -> F64:
    """Return what is known of each sentence before any is encoded, [S, F] from 0 to 1.

    words: the share of the question's words that it holds, the rarer the weightier. rank: 1 / number of its passage.
    lead: whether it is the first one below a signature. prose: whether it is no code or fragment. length. unknown
    names: the share of the question's names that no passage holds (the same for all sentences).
    """
    asked = words_of(question)
    own = [words_of(sentence.text) for sentence in sentences]
    df = Counter(word for words in own for word in words)
    weights = {word: math.log(1 + len(sentences) / (0.5 + df[word])) for word in sorted(asked)}
    total = math.fsum(weights.values()) or 1.0
    shares = [math.fsum(weight for word, weight in weights.items() if word in words) / total for words in own]
    unknown = _unknown_names(question, passages)
    entries = groupby(sentences, key=lambda sentence: (sentence.number, sentence.name))
    leads = [bool(name) and at == 0 for (_, name), entry in entries for at, _ in enumerate(entry)]
    rows = [
        (share, 1.0 / sentence.number, float(lead), float(_is_prose(sentence.text)), _length(sentence.text), unknown)
        for sentence, share, lead in zip(sentences, shares, leads, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(WEIGHTS))


def shortlist(features_SF: F64, num: int) -> I64:
    """Return the rows of the `num` sentences that look best without their vectors, ascending."""
    order = np.lexsort((np.arange(len(features_SF)), -np.round(features_SF @ WEIGHTS, 9)))
    return np.sort(order[:num]).astype(np.int64)


def likelihoods(features_SF: F64, vectors_SD: Array, question_D: Array) -> F64:
    """Return how likely each sentence answers, 0 to 1, rounded; vectors have length 1."""
    cosines_S = np.round((vectors_SD.astype(np.float64) * question_D).sum(axis=1), DIGITS)
    logits_S = COSINE * cosines_S + features_SF @ WEIGHTS + BIAS
    likely_S: F64 = np.round(1.0 / (1.0 + np.exp(-logits_S)), DIGITS)
    return likely_S


def _unknown_names(question: str, passages: Sequence[Passage]) -> float:
    names = [words for name in _NAME.findall(question) if (words := words_of(name))]
    if not names:
        return 0.0
    held = frozenset[str]().union(*(words_of(f"{p.title} {p.heading} {p.text}") for p in passages))
    return sum(not words & held for words in names) / len(names)


def _is_prose(text: str) -> bool:
    return (text[0].isalnum() or text[0] in "\"'(`") and ">>>" not in text and _length(text) * LONG >= SHORT


def _length(text: str) -> float:
    return min(num_words(text), LONG) / LONG
