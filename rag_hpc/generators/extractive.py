"""The generator without a model: it quotes the sentences that hold most of the question, and names their passages.

Made for reference pages, where a signature line (`heapq.nlargest(n, iterable)`) is followed by what it does: the
sentences below a signature are read as one entry with it. Same input, same answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rag_hpc.algo.cite import STOP_WORDS
from rag_hpc.algo.prompt import Passage
from rag_hpc.algo.sentences import sentence_spans
from rag_hpc.generators.base import Answer, not_found

MIN_COVERAGE = 0.15  # share of the question's weight that an entry must hold, else the answer is "not found"
SECOND = 0.8  # a second sentence needs this share of the best one's score, and a new word of the question
ENTRY, TITLE, RANK = 0.5, 0.3, 0.3  # weight of the entry's words, the title's words and the passage's rank
LONG = 40  # words; longer sentences lose

_WORD = re.compile(r"[^\W_]+")
# `name(...)`, `class name(...)`, `name: what it does`, or a name alone on its line
_SIGNATURE = re.compile(
    r"(?:(?:class|def|async def|exception)\s+)?@?([A-Za-z_][\w.]*)(?:\(|:\s\S|[ \t]*$)", re.MULTILINE
)
_CODE_TERM = re.compile(
    r"--?[a-z][\w-]+|[A-Za-z_]\w*(?:\.\w+)+|\w+_\w+|[A-Za-z_]\w*(?=\()|[A-Z]+[a-z]+[A-Z]\w*|\b[A-Z]{3,}\b"
)
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_ASKS_NUMBER = re.compile(
    r"\b(how (?:many|much|long|old|large|big|far)|what (?:year|number|port|size)|when)\b", re.IGNORECASE
)
_NAME = re.compile(r"(?:[A-Z][\w'-]*)(?:\s+(?:of|the|de)?\s*[A-Z][\w'-]*)*")
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ed", "ies", "es", "s", "ly", "e", "y")


@dataclass(frozen=True)
class _Sentence:
    """A sentence with its place: passage number from 1, text, and the entry (signature) it stands under."""

    number: int
    text: str
    words: frozenset[str]
    signature: str  # "" where there is none
    entry_words: frozenset[str]


class ExtractiveGenerator:
    """Quotes one or two sentences word for word."""

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the best sentences with their citations, or "not found" when none holds enough of the question."""
        asked = sorted(set(_stems(question)))
        found = [s for number, passage in enumerate(passages, start=1) for s in _sentences(number, passage)]
        if not asked or not found:
            return not_found()
        weights = _weights(asked, found)
        titles = [frozenset(_stems(p.title)) for p in passages]
        scored = sorted(((-_score(s, weights, titles[s.number - 1]), at) for at, s in enumerate(found)))
        best = found[scored[0][1]]
        if _coverage(best.words | best.entry_words, weights) < MIN_COVERAGE:
            return not_found()
        chosen = [best, *_second(best, scored, found, weights)]
        text = " ".join(f"{' '.join(s.text.split())} [{s.number}]" for s in chosen)
        citations = list(dict.fromkeys(s.number for s in chosen))
        return Answer(text=text, citations=citations, found=True, short=_short(question, best, weights))


def _sentences(number: int, passage: Passage) -> list[_Sentence]:
    """Return the passage's sentences, each with the words of all sentences under its signature."""
    rows: list[tuple[str, str, frozenset[str]]] = []
    signature = ""
    for begin, end in sentence_spans(passage.text):
        text = passage.text[begin:end]
        at_line_start = not passage.text[:begin].rpartition("\n")[2].strip()
        match = _SIGNATURE.match(text) if at_line_start else None
        signature = match.group(1) if match else signature
        rows.append((text, signature, frozenset(_stems(text))))
    entries: dict[str, set[str]] = {}
    for _, name, words in rows:
        entries.setdefault(name, set()).update(words if name else ())
    return [_Sentence(number, text, words, name, frozenset(entries[name])) for text, name, words in rows]


def _stems(text: str) -> list[str]:
    """Return the words without stop words and common endings; names like `lru_cache` count by their parts."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [_stem(w) for w in _WORD.findall(spaced.lower()) if w not in STOP_WORDS]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _weights(asked: Iterable[str], found: Sequence[_Sentence]) -> dict[str, float]:
    """Return each question word's weight: rarer among the sentences is worth more."""
    df = Counter(word for sentence in found for word in sentence.words)
    return {word: math.log(1 + len(found) / (0.5 + df[word])) for word in asked}


def _coverage(words: frozenset[str], weights: dict[str, float]) -> float:
    """Return the share of the question's weight that the words hold."""
    return math.fsum(w for word, w in weights.items() if word in words) / math.fsum(weights.values())


def _score(sentence: _Sentence, weights: dict[str, float], title: frozenset[str]) -> float:
    own = _coverage(sentence.words, weights)
    length = len(sentence.text.split())
    own *= min(1.0, LONG / max(1, length)) ** 0.5
    entry, titled = _coverage(sentence.entry_words, weights), _coverage(title, weights)
    return float(own + ENTRY * entry + TITLE * titled + RANK / sentence.number)


def _second(
    best: _Sentence, scored: Sequence[tuple[float, int]], found: Sequence[_Sentence], weights: dict[str, float]
) -> list[_Sentence]:
    """Return the runner-up where it is nearly as good and adds a word of the question, else nothing."""
    for negative, at in scored[1:]:
        if -negative < SECOND * -scored[0][0]:
            return []
        if set(weights) & (found[at].words - best.words):
            return [found[at]]
    return []


def _short(question: str, best: _Sentence, weights: dict[str, float]) -> str:
    """Return the few words of the sentence, or the name of its entry, that look most like the answer."""
    asked = question.lower()
    if _ASKS_NUMBER.search(question) and (number := _NUMBER.search(best.text)):
        return number.group().strip(".,")
    if best.signature:
        return best.signature.rpartition(".")[2] or best.signature
    for pattern in (_CODE_TERM, _NAME):
        fresh = [m.group() for m in pattern.finditer(best.text) if m.group().lower() not in asked]
        if fresh:
            return max(fresh, key=lambda term: (not set(_stems(term)) <= set(weights), -fresh.index(term)))
    return " ".join(best.text.split())
