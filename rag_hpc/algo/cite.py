"""Citations of an answer, and whether the cited passages bear them out.

Source: Gao 2023 (ALCE), sec. 3, with shared words in place of an entailment model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rag_hpc.algo.prompt import Passage
from rag_hpc.algo.sentences import sentence_spans

_STOP_WORDS = """
a an and any are as at be been but by can could did do does for from had has have how i if in into is it its may might
must no not of on one or our shall should so some such than that the their them then there these they this those to was
we were what when where which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_CITATION = re.compile(r"\[(\d+(?:\s*[,;]\s*\d+)*)\]")
_LEADING_CITATION = re.compile(rf"\s*{_CITATION.pattern}")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_QUOTE = re.compile(r"[\"\u201c]([^\"\u201c\u201d\n]+)[\"\u201d]")
_WORD = re.compile(r"\w+")
_GLUED = re.compile(r"(?<=[.!?])(?=\[\d)")  # "... object.[1] The next"
_AFTER_CITATION = re.compile(r"(?<=\][.!?])\s+")


@dataclass(frozen=True, kw_only=True)
class CitationCheck:
    """One citation of one sentence, held against the passage it names."""

    sentence: str
    citation: int  # passage number from 1
    supported: bool
    support: float  # share of the sentence's content words that the passage holds
    reason: str  # "supported", "weak", "misquoted" or "no-such-passage"


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning, in lower case and order."""
    return [w for w in _WORD.findall(text.lower()) if w not in STOP_WORDS]


def parse_citations(answer: str) -> list[int]:
    """Return the passage numbers an answer cites, each once, in order of appearance; code like `a[1]` is skipped."""
    numbers = (int(n) for group in _CITATION.findall(_CODE.sub(" ", answer)) for n in re.split(r"[,;]", group))
    return list(dict.fromkeys(n for n in numbers if n > 0))


def verify_citations(answer: str, passages: Sequence[Passage], threshold: float = 0.5) -> list[CitationCheck]:
    """Return one check a citation, sentence by sentence, in order.

    Supported means: at least `threshold` of the sentence's content words stand in the cited passage or its title, and
    quotations of three words or more stand there word for word (white space aside).
    """
    checks = []
    for sentence in _with_trailing_citations(answer):
        bare = _LEADING_CITATION.sub("", sentence).strip()
        checks += [_check(bare, number, passages, threshold) for number in parse_citations(sentence)]
    return checks


def uncited_sentences(answer: str) -> list[str]:
    """Return the sentences that state something and cite nothing."""
    return [s for s in _with_trailing_citations(answer) if content_words(s) and not parse_citations(s)]


def citation_precision(checks: Sequence[CitationCheck]) -> float:
    """Return the share of citations that are supported; 0.0 where nothing is cited."""
    return sum(c.supported for c in checks) / len(checks) if checks else 0.0


def _with_trailing_citations(answer: str) -> list[str]:
    """Return the sentences, a quotation kept whole, a citation after the full stop joined to its sentence."""
    text = _GLUED.sub(" ", answer)
    pieces = [p for begin, end in sentence_spans(text) for p in _AFTER_CITATION.split(text[begin:end])]
    joined: list[str] = []
    for sentence in pieces:
        if joined and joined[-1].count('"') % 2 and sentence.count('"') % 2:
            joined[-1] += " " + sentence
            continue
        lead = re.match(rf"(?:{_LEADING_CITATION.pattern})+[.\s]*", sentence)
        if lead and joined:
            joined[-1] += " " + lead.group().strip()
            sentence = sentence[lead.end() :].strip()
        if sentence:
            joined.append(sentence)
    return joined


def _check(sentence: str, number: int, passages: Sequence[Passage], threshold: float) -> CitationCheck:
    if number > len(passages):
        return CitationCheck(
            sentence=sentence, citation=number, supported=False, support=0.0, reason="no-such-passage"
        )
    passage = passages[number - 1]
    words = content_words(sentence)
    held = set(content_words(f"{passage.title} {passage.text}"))
    support = sum(w in held for w in words) / len(words) if words else 0.0
    flat = " ".join(passage.text.lower().split())
    quotes = [" ".join(q.lower().split()) for q in _QUOTE.findall(sentence)]
    misquoted = any(len(q.split()) >= 3 and q.rstrip(".,;:!?") not in flat for q in quotes)
    supported = support >= threshold and not misquoted
    reason = "misquoted" if misquoted else "supported" if supported else "weak"
    return CitationCheck(sentence=sentence, citation=number, supported=supported, support=support, reason=reason)
