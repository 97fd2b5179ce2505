"""Token-aware, sentence-aware chunks of a text. All positions are character offsets, or token indices where said."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from rag_hpc.algo.sentences import sentence_spans
from rag_hpc.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """One chunk: text[start:end], and its number of tokens."""

    start: int
    end: int
    num_tokens: int


def chunk_spans(
    text: str, token_offsets: Sequence[tuple[int, int]], *, max_tokens: int, overlap_tokens: int = 0
) -> list[Span]:
    """Return the chunks in order: each of at most max_tokens, together holding every token.

    token_offsets are the (start, end) of the encoder's tokens without special ones, in text order. Whole sentences
    are packed greedily. A longer sentence is cut at a line break in its last half, else a space, else next to
    punctuation, and only when there is none of these inside a word: pieces cut elsewhere could have more tokens when
    they are tokenized alone. Each chunk but the first begins with the trailing sentences (or the tail of a long one)
    of the one before, up to overlap_tokens, less where the next sentence needs the room.
    Linear time. Raises ConfigError unless 0 <= overlap_tokens < max_tokens.
    """
    if max_tokens < 1 or not 0 <= overlap_tokens < max_tokens:
        raise ConfigError(
            f"max_tokens={max_tokens}, overlap_tokens={overlap_tokens}: need 0 <= overlap_tokens < max_tokens"
        )
    tokens = _Tokens(text, token_offsets)
    bounds = _atom_bounds(tokens, max_tokens, overlap_tokens)
    spans: list[Span] = []
    first, begin, num_atoms = 0, 0, len(bounds) - 1  # first: atom that must come in; begin: token the chunk starts at
    while first < num_atoms:
        last = first + 1
        while last < num_atoms and bounds[last + 1] - begin <= max_tokens:
            last += 1
        end = bounds[last]
        spans.append(tokens.span(begin, end))
        first = last
        if first < num_atoms:
            begin = _overlap_begin(tokens, bounds, first, (max_tokens, overlap_tokens))
    return spans


def chunk_ids(doc_id: str, spans: Sequence[Span]) -> list[str]:
    """Return the id of each chunk: the document's id and the chunk's place in it, as `doc#start-end`."""
    return [f"{doc_id}#{span.start}-{span.end}" for span in spans]


class _Tokens:
    """A text's tokens and how good a cut before each of them is."""

    def __init__(self, text: str, offsets: Sequence[tuple[int, int]]) -> None:
        self.text = text
        self.starts = [start for start, _ in offsets]
        self.ends = [end for _, end in offsets]

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, begin: int, end: int) -> Span:
        """Return the span of tokens begin..end-1 without outer whitespace."""
        start, stop = self.starts[begin], self.ends[end - 1]
        piece = self.text[start:stop]
        bare = piece.strip()
        start += len(piece) - len(piece.lstrip()) if bare else 0
        return Span(start, start + len(bare) if bare else stop, end - begin)

    def cut_rank(self, token: int) -> int:
        """Return how good a cut before this token is: 4 line break, 3 space, 2 punctuation, 1 in a word, 0 never."""
        left, right = self.ends[token - 1], self.starts[token]
        if right < left:
            return 0  # byte-level tokens that share a character
        gap = self.text[left : right + 1] if self.text[right : right + 1].isspace() else self.text[left:right]
        if any(map(str.isspace, gap)):
            return 4 if "\n" in gap else 3
        return 2 if _stands_alone(self.text[left - 1 : left]) or _stands_alone(self.text[right : right + 1]) else 1


def _stands_alone(ch: str) -> bool:
    """Return whether tokenizers of the BERT family split a word before and after this character."""
    if not ch or ch.isascii():
        return not ch.isalnum()
    return unicodedata.category(ch)[0] == "P" or "\u3400" <= ch <= "\u9fff" or "\U00020000" <= ch <= "\U0002fa1f"


def _atom_bounds(tokens: _Tokens, max_tokens: int, overlap_tokens: int) -> list[int]:
    """Return token indices 0 = b0 < b1 < ... = number of tokens: the pieces that are packed whole.

    Pieces of a sentence that is too long leave room for the overlap, but are never shorter than half a chunk for it.
    """
    piece = max(max_tokens - overlap_tokens, (max_tokens + 1) // 2)
    bounds = [0]
    ends = [bisect_left(tokens.starts, start) for start, _ in sentence_spans(tokens.text)[1:]] + [len(tokens)]
    for end in ends:
        if end <= bounds[-1] or (end < len(tokens) and tokens.cut_rank(end) == 0):
            continue
        while end - bounds[-1] > max_tokens:
            bounds.append(_best_cut(tokens, bounds[-1], piece))
        bounds.append(end)
    return bounds


def _best_cut(tokens: _Tokens, begin: int, max_tokens: int) -> int:
    """Return the latest cut of the best rank in the last half of the next max_tokens tokens.

    The first half counts only when a single word fills the last one.
    """
    best, found, middle = -1, begin + max_tokens, begin + max_tokens // 2
    for token in range(begin + max_tokens, begin, -1):
        if best >= (2 if token <= middle else 4):
            break
        rank = tokens.cut_rank(token)
        if rank > best:
            best, found = rank, token
    return found


def _overlap_begin(tokens: _Tokens, bounds: Sequence[int], first: int, limits: tuple[int, int]) -> int:
    """Return the token the next chunk begins at, so that atom `first` still fits into it."""
    max_tokens, overlap_tokens = limits
    end = bounds[first]
    lowest = max(end - overlap_tokens, bounds[first + 1] - max_tokens)
    whole = bounds[bisect_left(bounds, lowest, 0, first + 1)]
    if whole < end:
        return whole
    return next((token for token in range(max(lowest, 1), end) if tokens.cut_rank(token) >= 2), end)
