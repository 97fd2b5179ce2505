"""A text's structure: where headings, paragraphs, lines and sentences begin, and which headings stand above a place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_hpc.algo.jit import jit
from rag_hpc.algo.text.chartable import characters
from rag_hpc.algo.text.sentences import find_sentences
from rag_hpc.algo.types import I8, I64, U32, Bools

# How good a cut is: 0 inside a sentence. Lines of code and tables are kept together before sentences are.
BLOCK_LINE, BLOCK_GAP, SENTENCE, LINE, PARAGRAPH, TOPIC, HEADING = 1, 2, 3, 4, 5, 6, 7
DEEPEST = 6  # level of headings; a heading's rank is HEADING + DEEPEST - level

_CODE_INDENT = 4  # columns from which a line is code
_MIN_FENCE = 3
_PLAIN, _FENCED, _TABLE, _INDENTED = range(4)
_NEWLINE, _TAB, _BLANK, _TICK, _TILDE, _BAR = map(ord, "\n\t `~|")

_BY_NEWLINES = np.array([SENTENCE, LINE, PARAGRAPH], dtype=np.int8)


@dataclass(frozen=True)
class Heading:
    """A heading: where its line starts, its level from 1 (the page's) on, and its text."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """Where a text may be cut, and the rank of each place: the higher, the better, and of a place's ranks the highest
    counts. B places in any order."""

    places_B: I64
    ranks_B: I8

    def __add__(self, more: Breaks) -> Breaks:
        return Breaks(
            places_B=np.concatenate([self.places_B, more.places_B]),
            ranks_B=np.concatenate([self.ranks_B, more.ranks_B]),
        )


NO_BREAKS = Breaks(places_B=np.zeros(0, dtype=np.int64), ranks_B=np.zeros(0, dtype=np.int8))


def find_breaks(text: str, headings: Sequence[Heading] = ()) -> Breaks:
    """Return the beginnings of sentences, lines, paragraphs and headings, ranked.

    Nothing is cut between a heading and its text. Fenced and indented code and Markdown tables are cut only where
    nothing else is in reach.
    """
    sentences = find_sentences(text)
    places_B = sentences.starts_S
    ranks_B = _BY_NEWLINES[np.minimum(sentences.newlines_S, 2)]
    inside_B = _are_inside(places_B, *_find_blocks(characters(text)))
    ranks_B[inside_B] = np.where(ranks_B[inside_B] == PARAGRAPH, BLOCK_GAP, BLOCK_LINE)
    breaks = Breaks(places_B=places_B, ranks_B=ranks_B)
    if not headings:
        return breaks
    following = np.searchsorted(places_B, [text.find("\n", h.start) for h in headings])
    ranks_B[following[(following > 0) & (following < len(ranks_B))]] = 0
    own_H = np.array([HEADING + DEEPEST - min(max(h.level, 1), DEEPEST) for h in headings], dtype=np.int8)
    return breaks + Breaks(places_B=np.array([h.start for h in headings], dtype=np.int64), ranks_B=own_H)


def given_headings(values: Any, text: str) -> list[Heading]:
    """Return the headings in a document's metadata, [[start, level, title], ...], without those that are none.

    Each starts where its line does, even where Markdown's marks stand before the title.
    """
    headings = []
    for value in values if isinstance(values, list) else []:
        if (
            isinstance(value, list)
            and len(value) == 3
            and all(type(n) is int for n in value[:2])
            and isinstance(value[2], str)
            and 0 <= value[0] < len(text)
        ):
            start, level = value[:2]
            title = value[2].encode("utf-8", "replace").decode()  # JSON can name half pairs, which no file can hold
            marks = text[text.rfind("\n", 0, start) + 1 : start].lstrip()
            headings.append(Heading(start if marks.strip("# \t") else start - len(marks), level, title))
    return sorted(headings, key=lambda heading: heading.start)


class Outline:
    """The headings of a document, and which of them stand above a place."""

    def __init__(self, title: str, headings: Iterable[Heading]) -> None:
        self._title = title
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        open_: list[tuple[int, tuple[str, ...]]] = [(-1, ())]  # level, path
        for heading in headings:
            while len(open_) > 1 and open_[-1][0] >= heading.level:
                open_.pop()
            open_.append((heading.level, (*open_[-1][1], " ".join(heading.title.split()))))
            self._starts.append(heading.start)
            self._paths.append(open_[-1][1])

    def path(self, place: int) -> tuple[str, ...]:
        """Return the document's title and the headings above a place; a heading is not above its own start.

        A topmost heading that the title holds is left out.
        """
        above = bisect_right(self._starts, place) - 1
        path = self._paths[above] if above >= 0 else ()
        path = path[:-1] if above >= 0 and self._starts[above] == place else path
        path = path[1:] if path and path[0].lower() in self._title.lower() else path
        return tuple(part for part in (self._title, *path) if part)


def _are_inside(places: I64, starts: I64, ends: I64) -> Bools:
    """Return which places lie inside a block, past its start."""
    at = np.searchsorted(starts, places) - 1
    return (at >= 0) & (places < np.append(ends, 0)[at])


@jit
def _find_blocks(chars: U32) -> tuple[I64, I64]:
    """Return (starts, ends) of fenced code, tables and indented lines, in order."""
    most = 1
    for char in chars:
        most += char == _NEWLINE
    starts, ends = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    num, begin, kind, fence = 0, 0, _PLAIN, (0, 0)
    while begin < len(chars):
        first, column = begin, 0
        while first < len(chars) and (chars[first] == _BLANK or chars[first] == _TAB):
            column += _CODE_INDENT if chars[first] == _TAB else 1
            first += 1
        end = run = first
        while end < len(chars) and chars[end] != _NEWLINE:
            end += 1
        while run < end and chars[run] == chars[first]:
            run += 1
        mark: tuple[Any, int] = (np.int64(chars[first]) if first < end else 0, run - first)
        is_fence = mark[1] >= _MIN_FENCE and (mark[0] == _TICK or mark[0] == _TILDE)
        before = kind
        if kind == _FENCED:
            kind = _PLAIN if is_fence and mark[0] == fence[0] and mark[1] >= fence[1] else _FENCED
        elif is_fence:
            kind, fence = _FENCED, mark
        else:
            kind = _line_kind(kind, column, mark)
        if kind != _PLAIN and kind != before:
            starts[num] = first
            num += 1
        if before == _FENCED or (kind != _PLAIN and first < end):
            ends[num - 1] = end
        begin = end + 1
    return starts[:num].copy(), ends[:num].copy()


@jit
def _line_kind(before: int, column: int, mark: tuple[int, int]) -> int:
    """Return what a line outside fences is, given the line before; a blank line may stand inside indented code."""
    if mark[1] == 0:
        return _INDENTED if before == _INDENTED else _PLAIN
    if column >= _CODE_INDENT:
        return _INDENTED
    return _TABLE if mark[0] == _BAR else _PLAIN
