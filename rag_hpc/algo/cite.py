"""Citations of an answer, and whether the cited passages bear them out. Source: Gao 2023 (ALCE), sec. 3, made lexical."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rag_hpc.algo.prompt import Passage

# fmt: off
STOP_WORDS = frozenset((
    "a an and any are as at be been but by can could did do does for from had has have how i if in into is it its may "
    "might must no not of on one or our shall should so some such than that the their them then there these they this "
    "those to was we were what when where which while who whom whose why will with would you your"
).split())
# fmt: on

_CITATION = re.compile(r"\[(\d+(?:\s*[,;]\s*\d+)*)\]")
_LEADING_CITATION = re.compile(rf"\s*{_CITATION.pattern}")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_QUOTE = re.compile(r"[\"\u201c]([^\"\u201c\u201d\n]+)[\"\u201d]")
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u201d)\]]*\s+(?=[\"'\u201c(\[`]*[A-Z0-9`\[])|\n\s*\n")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Fig|No|Dr|Mr|Mrs|St|[A-Z])\.)$")


@dataclass(frozen=True, kw_only=True)
class CitationCheck:
    """One citation of one sentence, or (number 0) a sentence that cites nothing."""

    sentence: str
    number: int  # passage number from 1
    support: float  # share of the sentence's content words that the passage holds
    ok: bool
    reason: str  # "supported", "weak", "misquoted", "no-such-passage" or "uncited"


def sentences(text: str) -> list[str]:
    """Return the text's sentences in order, each an exact substring without outer white space."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if end.group().strip("\"'\u201d)]").count("\n") < 2 and _ABBREVIATION.search(text[start : end.start()]):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    return [s for s in (*found, text[start:].strip()) if s]


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning, in lower case and order."""
    return [w for w in _WORD.findall(text.lower()) if w not in STOP_WORDS]


def parse_citations(answer: str) -> list[int]:
    """Return the passage numbers an answer cites, each once, in order of appearance; code like `a[1]` is skipped."""
    numbers = (int(n) for group in _CITATION.findall(_CODE.sub(" ", answer)) for n in re.split(r"[,;]", group))
    return list(dict.fromkeys(n for n in numbers if n > 0))


def verify_citations(answer: str, passages: Sequence[Passage], threshold: float = 0.5) -> list[CitationCheck]:
    """Return one check a citation, sentence by sentence; a sentence of content without citation gives one as well.

    Supported means: at least `threshold` of the sentence's content words stand in the cited passage or its title, and
    quotations of three words or more stand there word for word (white space aside).
    """
    checks = []
    for sentence in _with_trailing_citations(answer):
        numbers = parse_citations(sentence)
        bare = _LEADING_CITATION.sub("", sentence).strip()
        if not numbers and content_words(bare):
            checks.append(CitationCheck(sentence=bare, number=0, support=0.0, ok=False, reason="uncited"))
        checks += [_check(bare, number, passages, threshold) for number in numbers]
    return checks


def citation_precision(checks: Sequence[CitationCheck]) -> float:
    """Return the share of citations that are supported; 0.0 where nothing is cited."""
    cited = [c for c in checks if c.number > 0]
    return sum(c.ok for c in cited) / len(cited) if cited else 0.0


def citation_recall(checks: Sequence[CitationCheck]) -> float:
    """Return the share of sentences with a supported citation; 0.0 where there is no sentence."""
    stated = {c.sentence for c in checks}
    return len({c.sentence for c in checks if c.ok}) / len(stated) if stated else 0.0


def _with_trailing_citations(answer: str) -> list[str]:
    """Return the sentences, a quotation kept whole, a citation after the full stop joined to its sentence."""
    joined: list[str] = []
    for sentence in sentences(answer):
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
        return CitationCheck(sentence=sentence, number=number, support=0.0, ok=False, reason="no-such-passage")
    passage = passages[number - 1]
    words = content_words(sentence)
    held = set(content_words(f"{passage.title} {passage.text}"))
    support = sum(w in held for w in words) / len(words) if words else 0.0
    flat = " ".join(passage.text.lower().split())
    quotes = [" ".join(q.lower().split()) for q in _QUOTE.findall(sentence)]
    misquoted = any(len(q.split()) >= 3 and q.rstrip(".,;:!?") not in flat for q in quotes)
    ok = support >= threshold and not misquoted
    reason = "misquoted" if misquoted else "supported" if ok else "weak"
    return CitationCheck(sentence=sentence, number=number, support=support, ok=ok, reason=reason)
