"""Citations of an answer, and whether the cited passages bear them out.

Source: Gao 2023 (ALCE), sec. 3, with shared words in place of an entailment model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.text.words import content_words, num_words

# As models write them that were trained on Chinese, or with files: 【1】 and 【1†source】, brackets of any width, a
# word before the number, numbers from one to another. What regular expressions hold, [1-9], is no such range.
_OPEN, _CLOSE = "［【〔〖⟦〚❲", "］】〕〗⟧〛❳"
_NAMES = r"sources?|passages?|doc(?:ument)?s?|ref(?:erence)?s?|来源|資料|资料|文献|文獻|参考|參考|出典|引用"
_LABEL = rf"(?:(?:{_NAMES})[\s:#：]{{0,2}})?"
_MORE = r"(?:\s?[,;，；、{}]\s?\d{{1,9}}){{0,99}}"
_REST = rf"(?:†[^\]{_CLOSE}\n]{{0,200}})?\s?"
_WRITTEN = re.compile(
    rf"\\?\[\s?(?:\^|{_LABEL})(\d{{1,9}}{_MORE.format('–')}){_REST}\\?\]"
    rf"|[{_OPEN}]\s?(?:\^|{_LABEL})(\d{{1,9}}{_MORE.format('–~～-')}){_REST}[{_CLOSE}]",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(\d+)(?:\s?[–~～-]\s?(\d+))?")
_LONGEST_RANGE = 20  # passages
_CITATION = re.compile(r"\[(\d+(?:\s*[,;]\s*\d+)*)\]")
_LEADING_CITATION = re.compile(rf"(?<!\s)\s*+{_CITATION.pattern}")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_QUOTE = re.compile(r"[\"\u201c「『]([^\"\u201c\u201d「」『』\n]+)[\"\u201d」』]")
_GLUED = re.compile(r"(?<=[.!?])(?=\[\d)")  # "... object.[1] The next"
_AFTER_CITATION = re.compile(r"(?<=\][.!?])\s+")
_QUOTE_ENDS = ".,;:!?。，、；：！？"


@dataclass(frozen=True, kw_only=True)
class Quote:
    """Words of a passage that an answer gives as they stand."""

    number: int  # of the passage, from 1
    start: int  # in the passage's text
    end: int
    score: float  # how likely they answer, 0 to 1


@dataclass(frozen=True, kw_only=True)
class CitationCheck:
    """One citation of one sentence, held against the passage it names."""

    sentence: str
    citation: int  # passage number from 1
    supported: bool
    support: float  # share of the sentence's content words that the passage holds
    reason: str  # "quoted", "supported", "weak", "misquoted" or "no-such-passage"
    start: int = -1  # where the sentence stands in the passage's text, if it is quoted
    end: int = -1


VERDICTS = ("quoted", "supported", "not supported")


def verdicts(checks: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Return passage number -> the last of VERDICTS that a citation of it has; checks are as plain values."""
    found: dict[int, str] = {}
    for check in checks:
        verdict = (
            "not supported" if not check["supported"] else "quoted" if check.get("start", -1) >= 0 else "supported"
        )
        found[check["citation"]] = max(verdict, found.get(check["citation"], verdict), key=VERDICTS.index)
    return dict(sorted(found.items()))


def parse_citations(answer: str) -> list[int]:
    """Return the passage numbers an answer cites, each once, in order of appearance; code like `a[1]` is skipped."""
    plain = _plainly(_CODE.sub(" ", answer))
    numbers = (int(n) for group in _CITATION.findall(plain) for n in re.split(r"[,;]", group))
    return list(dict.fromkeys(n for n in numbers if n > 0))


def without_citations(answer: str) -> str:
    """Return the answer without the numbers of its passages; brackets in code stay."""
    parts = re.split(f"({_CODE.pattern})", answer, flags=re.DOTALL)
    bare = "".join(part if at % 2 else _LEADING_CITATION.sub("", part) for at, part in enumerate(parts))
    return bare.strip()


def verify_citations(answer: str, passages: Sequence[Passage], threshold: float = 0.5) -> list[CitationCheck]:
    """Return one check a citation, sentence by sentence, in order.

    Quoted means: the sentence stands in the cited passage word for word (white space aside). Supported means: at least
    `threshold` of its content words stand there or in the title, and what it quotes (three words or more) does as is.
    """
    checks = []
    for sentence in _with_trailing_citations(answer):
        bare = _LEADING_CITATION.sub("", sentence).strip()
        checks += [_check(bare, number, passages, threshold) for number in parse_citations(sentence)]
    return checks


def uncited_sentences(answer: str) -> list[str]:
    """Return the sentences that say something and name no passage for it."""
    return [s for s in _with_trailing_citations(answer) if content_words(s) and not parse_citations(s)]


def citation_recall(answer: str, supported: Sequence[bool]) -> float | None:
    """Return the share of an answer's sentences that a citation of theirs supports, None for an answer without any.

    supported: of each citation, in order, as the checks of this file give them. Source: Gao 2023, sec. 3.
    """
    cited = [parse_citations(sentence) for sentence in _with_trailing_citations(answer) if content_words(sentence)]
    if sum(map(len, cited)) != len(supported):  # quotations, each with its citation, of which one may hold a full stop
        return sum(supported) / len(supported) if supported else None
    ends = list(accumulate(map(len, cited), initial=0))
    borne_out = [any(supported[start:end]) for start, end in pairwise(ends)]
    return sum(borne_out) / len(borne_out) if borne_out else None


def check_quotes(answer: str, quotes: Sequence[Quote], passages: Sequence[Passage]) -> list[CitationCheck]:
    """Return one check a quote: do the answer and the passage both hold it, and does its citation follow it?"""
    said, checks = _one_line(answer), []
    for quote in quotes:
        words = _one_line(passages[quote.number - 1].text[quote.start : quote.end])
        as_said = bool(words) and re.search(rf"{re.escape(words)}(?: …)? \[{quote.number}\]", said) is not None
        checks.append(
            CitationCheck(
                sentence=words,
                citation=quote.number,
                supported=as_said,
                support=float(as_said),
                reason="quoted" if as_said else "misquoted",
                start=quote.start,
                end=quote.end,
            )
        )
    return checks


def _plainly(answer: str) -> str:
    """Return the answer with all citations as [1] or [1, 2]."""
    return _WRITTEN.sub(_as_list, answer)


def _as_list(found: re.Match[str]) -> str:
    numbers: list[int] = []
    for first, last in _RANGE.findall(found[1] or found[2]):
        begin, end = int(first), int(last or first)
        numbers += range(begin, end + 1) if begin <= end < begin + _LONGEST_RANGE else (begin, end)
    return f"[{', '.join(map(str, numbers))}]"


def _with_trailing_citations(answer: str) -> list[str]:
    """Return the sentences, a quotation kept whole, a citation after the full stop joined to its sentence."""
    text = _GLUED.sub(" ", _plainly(answer))
    from rag_hpc.algo.text.sentences import sentence_spans  # compiled code, which planning a run does without

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
        return CitationCheck(sentence=sentence, citation=number, supported=False, support=0.0, reason="no-such-passage")
    passage = passages[number - 1]
    words = content_words(sentence)
    if words and (place := re.search(r"\s+".join(map(re.escape, sentence.split())), passage.text)):
        return CitationCheck(
            sentence=sentence,
            citation=number,
            supported=True,
            support=1.0,
            reason="quoted",
            start=place.start(),
            end=place.end(),
        )
    held = set(content_words(f"{passage.title} {passage.text}"))
    support = sum(w in held for w in words) / len(words) if words else 0.0
    flat = _one_line(passage.text.lower())
    quotes = [_one_line(q.lower()) for q in _QUOTE.findall(sentence)]
    misquoted = any(num_words(q) >= 3 and q.rstrip(_QUOTE_ENDS) not in flat for q in quotes)
    supported = support >= threshold and not misquoted
    reason = "misquoted" if misquoted else "supported" if supported else "weak"
    return CitationCheck(sentence=sentence, citation=number, supported=supported, support=support, reason=reason)


def _one_line(text: str) -> str:
    return " ".join(text.split())
