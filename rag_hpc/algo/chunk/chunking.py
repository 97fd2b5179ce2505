"""Chunks of a text that end where its structure does: headings first, then paragraphs, lines, sentences, words.

All positions are character offsets, or token indices where said. T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rag_hpc.algo.chunk.structure import (
    BLOCK_GAP,
    BLOCK_LINE,
    DEEPEST,
    HEADING,
    LINE,
    PARAGRAPH,
    SENTENCE,
    TOPIC,
    Breaks,
)
from rag_hpc.algo.text.chartable import CharTable, characters
from rag_hpc.algo.text.words import LETTERS
from rag_hpc.algo.types import I64, Bools

MAX_CHARS_PER_TOKEN = 32  # on average over a chunk: one unknown word may be a megabyte long
_LONG, _PIECE = 256, 64  # characters: of a token that may be cut inside, and between its cuts
MOST_LETTERS = 8  # of a script without spaces in a token; one with more counts as so many, and may be cut before each
_WIDE_ROOM = 200  # tokens; below, pieces of an unknown word must be short: read alone, each character may make three
# tokens (Hangul). Above they fit: WordPiece knows no word of more than 100
_SPACE, _WORD = -1, -2  # ranks of cuts that no structure names
_WAYS = (  # (least rank, share of the chunk that must be full), tried in this order
    (TOPIC, 0.25),
    (PARAGRAPH, 0.5),
    (LINE, 0.5),
    (SENTENCE, 0.5),
    (SENTENCE, 0.125),
    (BLOCK_GAP, 0.5),
    (BLOCK_LINE, 0.25),
    (_SPACE, 0.5),
    (_WORD, 0.5),
    (_WORD, 0.0),
)

_FIRST_LETTER = 0xE01  # the lowest of LETTERS
_IS_LETTER = CharTable(lambda char: re.match(f"[{LETTERS}]", char) is not None)
_STRONGEST = range(HEADING + DEEPEST, TOPIC - 1, -1)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text's tokens by where they begin."""

    starts_T: I64  # characters, ascending; equal where one character makes several tokens
    is_word_T: Bools  # whether a word begins here: a better place to cut than its inside
    exact: bool = True  # whether slices cut before words have the tokens that they have in the text


@dataclass(frozen=True)
class Span:
    """One chunk: text[start:end], and its number of tokens."""

    start: int
    end: int
    num_tokens: int


class Measure(Protocol):
    """What the limit of a chunk is, and how a slice is counted whose tokens the text's do not tell."""

    def room(self, start: int) -> int:
        """Return how many tokens a chunk may have that starts at this character, at least 1."""

    def num_tokens(self, start: int, end: int) -> int:
        """Return how many tokens the slice has when it is read alone."""


def chunk_spans(text: str, tokens: Tokens, breaks: Breaks, measure: Measure, *, overlap_tokens: int = 0) -> list[Span]:
    """Return the chunks in order: each within its room, together holding every token.

    A chunk ends at the best break that still fits it (see _WAYS: the strongest heading when that leaves the chunk a
    quarter full, else a paragraph or line when half full, and so on down to the inside of a word). Each chunk but the
    first begins with the trailing sentences of the one before (or the tail of a long one), up to overlap_tokens;
    never across a heading or a change of topic. Linear time.
    """
    cutter = _Cutter(text, tokens, breaks, measure)
    spans: list[Span] = []
    begin = cut = 0  # tokens: where the chunk begins, and up to where all are in chunks
    while cut < cutter.num_tokens:
        begin, end, span = cutter.next(begin, cut)
        if span is not None:
            spans.append(span)
        cut = end
        begin = cutter.overlap(begin, cut, overlap_tokens)
    return spans


def chunk_ids(doc_id: str, spans: Sequence[Span]) -> list[str]:
    """Return the id of each chunk: the document's id and the chunk's place in it, as `doc#start-end`."""
    return [f"{doc_id}#{span.start}-{span.end}" for span in spans]


class _Cutter:
    """A text with the rank of a cut before each of its tokens."""

    def __init__(self, text: str, tokens: Tokens, breaks: Breaks, measure: Measure) -> None:
        room = measure.room(0)
        step = min(_PIECE, room // 2) if room >= _WIDE_ROOM else room // 6  # half of the first room any place has
        tokens = _with_stops(tokens, text, max(1, step))
        self._text, self._tokens, self._measure = text, tokens, measure
        self.num_tokens = len(tokens.starts_T)
        self._start = len(text) - len(text.lstrip())
        if self.num_tokens and tokens.starts_T[0] - self._start > _LONG:
            self._start = int(tokens.starts_T[0])
        at = np.searchsorted(tokens.starts_T, breaks.places_B)
        rank_T = np.zeros(self.num_tokens + 1, dtype=np.int8)
        np.maximum.at(rank_T, at, breaks.ranks_B)
        # as bytes: the next or last token of a rank is one call of find or rfind
        self._ranks, self._words = rank_T.tobytes(), tokens.is_word_T.tobytes()

    def next(self, begin: int, cut: int) -> tuple[int, int, Span | None]:
        """Return where the chunk begins after all, where it ends, and its span (None when only space is in it).

        The overlap gives way when the chunk can then end at a better place.
        """
        room = self._room(begin)
        if self._reach(begin, room) <= cut:
            begin, room = cut, self._room(cut)
        end = self._end(begin, cut, room)
        if begin < cut and not self._is_good(end):
            alone = self._end(cut, cut, self._room(cut))
            if self._is_good(alone):
                begin, end, room = cut, alone, self._room(cut)
        return self._counted(begin, cut, end, room)

    def overlap(self, begin: int, cut: int, overlap_tokens: int) -> int:
        """Return the token that the chunk after this cut begins at."""
        if cut >= self.num_tokens or self._ranks[cut] >= TOPIC:
            return cut
        low = max(cut - min(overlap_tokens, self._room(cut) // 2), begin + 1)
        whole = self._last(low, cut - 1, _WAYS[0][0])
        if whole < 0:
            whole = next((token for token in range(low, cut) if self._ranks[token]), -1)
        if whole >= 0:
            return whole
        words = [token for token in range(low, cut) if self._words[token]]
        return next((token for token in words if self._after_space(token)), words[0] if words else cut)

    def _is_good(self, end: int) -> bool:
        """Return whether no sentence is cut here."""
        return end == self.num_tokens or self._ranks[end] >= SENTENCE

    def _room(self, token: int) -> int:
        return self._measure.room(self._place(token))

    def _place(self, token: int) -> int:
        if token == 0:
            return self._start
        return int(self._tokens.starts_T[token]) if token < self.num_tokens else len(self._text)

    def _reach(self, begin: int, room: int) -> int:
        """Return the last token that a chunk can end before."""
        most = self._place(begin) + room * MAX_CHARS_PER_TOKEN
        end = min(begin + room, self.num_tokens)
        if self._place(end) > most:
            end = max(int(np.searchsorted(self._tokens.starts_T, most, side="right")) - 1, begin + 1)
        return end

    def _end(self, begin: int, cut: int, room: int) -> int:
        """Return where the chunk is best cut: after `cut`, in reach of `begin`."""
        reach = self._reach(begin, room)
        if reach == self.num_tokens:
            return reach
        for rank, share in _WAYS:
            low = max(cut + 1, begin + int(share * room))
            found = self._last(low, reach, rank) if low <= reach else -1
            if found >= 0:
                return found
        return max(reach, cut + 1)

    def _last(self, low: int, reach: int, least: int) -> int:
        """Return the last token from low to reach with a cut of this rank before it, or -1; of topics the strongest."""
        if least == TOPIC:
            return next((found for rank in _STRONGEST if (found := self._ranks.rfind(rank, low, reach + 1)) >= 0), -1)
        if least > 0:
            return max(self._ranks.rfind(rank, low, reach + 1) for rank in range(least, TOPIC))
        found = self._words.rfind(1, low, reach + 1)
        while found >= 0 and least == _SPACE and not self._after_space(found):
            found = self._words.rfind(1, low, found)
        return found

    def _after_space(self, token: int) -> bool:
        return self._text[self._place(token) - 1].isspace()

    def _counted(self, begin: int, cut: int, end: int, room: int) -> tuple[int, int, Span | None]:
        """Return the chunk, made shorter as long as it has more tokens alone than it had in the text."""
        while True:
            start, stop = self._place(begin), self._place(end)
            stop = start + len(self._text[start:stop].rstrip())
            num = end - begin if self._is_exact(begin, end) else self._measure.num_tokens(start, stop)
            if num <= room or (begin == cut and end <= cut + 1):
                return begin, end, Span(start, stop, num) if num and start < stop else None
            if end > cut + 1:
                end = self._end(begin, cut, min(end - begin - 1, max(1, end - begin - (num - room))))
            else:
                begin, room = cut, self._room(cut)

    def _is_exact(self, begin: int, end: int) -> bool:
        return (
            self._tokens.exact
            and (begin == 0 or bool(self._words[begin]))
            and (end == self.num_tokens or bool(self._words[end]))
        )


def _with_stops(tokens: Tokens, text: str, step: int) -> Tokens:
    """Return the tokens with more places to cut where one spans many characters: a long unknown word, say.

    There are some every `step` characters, and before each letter of a script without spaces.
    """
    edges = np.append(tokens.starts_T, len(text))
    letters = _letters(text)
    long = np.flatnonzero(np.diff(edges) > _LONG)
    if not len(long) and not len(letters):
        return tokens
    at_T = np.searchsorted(letters, edges)
    own_T = np.diff(at_T)
    inside = letters[at_T[0] :][np.repeat(own_T > MOST_LETTERS, own_T)]
    long = long[own_T[long] <= MOST_LETTERS]
    stops = [place for at in long for place in range(edges[at] + step, edges[at + 1], step)]
    extra = np.array([place for place in stops if not text[place].isspace()], dtype=np.int64)
    extra = np.concatenate([extra, np.setdiff1d(inside, tokens.starts_T)])
    if not len(extra):
        return tokens
    starts_T = np.concatenate([tokens.starts_T, extra])
    is_word_T = np.concatenate([tokens.is_word_T, np.zeros(len(extra), dtype=np.bool_)])
    order = np.argsort(starts_T, kind="stable")
    return Tokens(starts_T=starts_T[order], is_word_T=is_word_T[order], exact=tokens.exact and not len(extra))


def _letters(text: str) -> I64:
    """Return where the letters of scripts without spaces are, each with the marks on it."""
    if text.isascii() or _is_western(text):
        return np.zeros(0, dtype=np.int64)
    chars = characters(text)
    if chars.max() < _FIRST_LETTER:
        return np.zeros(0, dtype=np.int64)
    found: I64 = np.flatnonzero(_IS_LETTER.codes(chars)[chars])
    return found


def _is_western(text: str) -> bool:
    """Return whether all characters are those of Western Europe, with its quotation marks: a quick look."""
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True
