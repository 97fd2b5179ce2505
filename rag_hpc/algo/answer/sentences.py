"""The sentences of a passage that may answer, each with the entry of a reference page that it stands in.

On such pages a line like `heapq.nlargest(n, iterable)`, the signature, is followed by sentences on what it does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.text.stopwords import STOP_WORDS
from rag_hpc.algo.text.words import RUN, is_unspaced, run_grams

LONGEST = 400  # characters of a quotation; longer ones end before a space
_NAME = r"@?[^\W\d][\w.]*"
_CALL = re.compile(rf"(?:(?:class|def|async def|exception)\s+)?({_NAME})\(.*", re.DOTALL)  # name(...)
_ALONE = re.compile(r"([a-z_][\w.]*|[A-Z][A-Z0-9_]+|\w+\.[\w.]+)")  # an attribute or constant on a line of its own
_LISTED = re.compile(rf"({_NAME})(\([^()\n]*\))?:\s+(?=\S)")  # name: what it is, or name(...): what it does
_CODED = re.compile(r"[a-z]+[A-Z]|[A-Z][a-z]+[A-Z]|_|\.\w")  # how a name looks that is no word of a language
_HEADING = re.compile(r"[A-Z][\w-]*(?: [\w-]+){0,3}")  # Methods, Known subclasses
_ENDS = ".!?:;)"  # what a line may end in that does not go on
_MARKUP = re.compile(r"#{1,6}\s")
_WORD = re.compile(r"[^\W_]+")
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ed", "ies", "es", "s", "ly")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence at its place in a passage (number from 1), and the signature of the entry that it stands in, or ""."""

    number: int
    start: int
    end: int
    text: str  # in one line
    signature: str  # the line
    name: str  # that the line gives: `heapq.nlargest`


def sentences_of(passages: Sequence[Passage]) -> list[Sentence]:
    """Return the sentences of all passages in order; signatures and headings are no sentences of their own."""
    return [sentence for number, passage in enumerate(passages, start=1) for sentence in _read(number, passage)]


def words_of(text: str) -> frozenset[str]:
    """Return the stems of the words that carry meaning; `lru_cache` and `lruCache` count by their parts.

    Where words are not spaced, two characters in a row are one, of Thai and the like three.
    """
    runs = RUN.findall(text) if is_unspaced(text) else []
    spaced = RUN.sub(" ", text) if runs else text
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", spaced)
    words = {_stem(word) for word in _WORD.findall(spaced.lower()) if word not in STOP_WORDS}
    return frozenset(words.union(gram for run in runs for gram in run_grams(run, alone=False)))


def _stem(word: str) -> str:
    """Return what `copy`, `copies` and `copying` share, and `run` and `running`."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    word = word[:-1] if word[-1] in "ey" and len(word) > 3 else word
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _read(number: int, passage: Passage) -> Iterator[Sentence]:
    from rag_hpc.algo.text.sentences import sentence_spans  # compiled code, which planning a run does without

    last = passage.heading.rpartition(" > ")[2]
    signature, name = (last, match[1]) if (match := _CALL.match(last)) else ("", "")
    text = passage.text
    for start, end in _joined(text, sentence_spans(text)):
        line = " ".join(text[start:end].split())
        kind = _kind(text, start, end)
        listed = _LISTED.match(line)
        call = None if kind is _Kind.inner or (listed and listed[2]) else _CALL.fullmatch(line)
        if match := call or (_ALONE.fullmatch(line) if kind is _Kind.part else None):
            signature, name = line, match[1].lstrip("@")
        elif _MARKUP.match(line) or (kind is _Kind.part and _HEADING.fullmatch(line)):
            signature, name = "", ""
        elif line == passage.title or (len(_WORD.findall(line)) < 2 and not is_unspaced(line)):
            continue
        elif start == 0 < passage.start and line[0].islower():
            continue  # the end of a sentence that the passage before this one has whole
        elif listed and (listed[2] or _CODED.search(listed[1])):
            yield Sentence(number=number, start=start, end=end, text=line, signature="", name=listed[1])
        else:
            yield Sentence(number=number, start=start, end=end, text=line, signature=signature, name=name)


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans, those of a sentence that goes on in the next line as one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        last = joined[-1] if joined else (0, 0)
        wrapped = text[last[1] : start].count("\n") == 1 and text[last[1] - 1] not in _ENDS
        goes_on = wrapped and text[start].islower() and not _LISTED.match(text, start)
        if joined and goes_on and end - last[0] <= LONGEST:
            joined[-1] = (last[0], end)
        else:
            joined.append((start, end))
    return joined


class _Kind(enum.Enum):
    inner = 0  # shares a line with others, or is indented
    line = 1  # has its lines for itself
    part = 2  # and blank lines around them


def _kind(text: str, start: int, end: int) -> _Kind:
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[-1:] not in ("", "\n") or after[:1] not in ("", "\n"):
        return _Kind.inner
    return _Kind.part if before in ("", "\n\n") and after in ("", "\n\n") else _Kind.line
