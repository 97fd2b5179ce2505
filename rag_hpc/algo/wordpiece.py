"""WordPiece at compiled speed: where the tokens of a text begin, without making the tokens.

Normalizing and splitting are learned from the tokenizer itself, one character at a time and only for characters that
occur: both steps of a BERT tokenizer treat each character alone, except for combining marks that a normal form
reorders. Texts with such marks, or with the text of a special token, are for the tokenizer itself.
Source of the algorithm: Wu et al. 2016 (WordPiece); greedy longest match over a trie.
C characters of a text, N of its normalized form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.chartable import Chars, CharTable, Codes, characters
from rag_hpc.algo.chunking import Ints, Tokens
from rag_hpc.algo.jit import jit

_DROPPED, _UNSAFE, _SEVERAL = -1, -2, -3  # codes of characters; a list of several counts down from -3
_SPACE, _MARK, _LETTER = 0, 1, 2  # what a normalized character is: between words, a word of its own, part of a word
_FENCE = "0"  # nothing else is normalized to it
_MIX = 0x9E3779B97F4A7C15
_CHAR_BITS, _NODE_BITS = 21, 21  # a key takes both and a node once more: 63 bits
_NODE_MASK = (1 << _NODE_BITS) - 1

Bools = npt.NDArray[np.bool_]


class WordPiece:
    """Counts tokens as the tokenizer does whose vocabulary and first two steps it is given."""

    def __init__(self, vocab: Iterable[str], *, prefix: str, max_word_chars: int,
                 normalize: Callable[[str], str], split: Callable[[str], list[str]]) -> None:
        """prefix: of tokens inside a word. split: a normalized text's words in order.

        Raises OverflowError when the vocabulary has more beginnings of tokens than a table of edges can number.
        """
        self._normalize, self._split = normalize, split
        self._max_word_chars = max_word_chars
        self._kinds: dict[str, int] = {}
        self._several = np.zeros(1, dtype=np.int32)  # length, then codes, of each character that makes several
        self._table = CharTable(self._code)
        self._trie = _Trie.of(vocab, prefix)

    def tokens(self, text: str) -> Tokens | None:
        """Return the tokens without special ones; None where only the tokenizer itself can tell them."""
        chars_C = characters(text)
        codes = self._table.codes(chars_C)
        most = _num_normalized(chars_C, codes, self._several)
        if most == _UNSAFE:
            return None
        made_N, places_N = _normalized(chars_C, codes, self._several, most)
        starts_T, is_word_T = _tokenize(made_N, places_N, (self._trie.edges, self._trie.is_token, self._trie.inner),
                                        self._max_word_chars)
        return Tokens(starts_T=starts_T, is_word_T=is_word_T)

    def _code(self, char: str) -> int:
        """Ask the tokenizer how it normalizes a character and what it takes the result for."""
        if 0xD800 <= ord(char) < 0xE000:
            return _UNSAFE  # half of a pair; the tokenizer takes none
        made = self._normalize(_FENCE + char + _FENCE)[1:-1]
        if unicodedata.category(char) == "Cn" or any(map(unicodedata.combining, made)):
            return _UNSAFE  # a mark that neighbours may change places with, or may in a newer Unicode
        codes = [ord(one) << 2 | self._kind(one) for one in made]
        if len(codes) < 2:
            return codes[0] if codes else _DROPPED
        at = len(self._several)
        self._several = np.concatenate([self._several, np.array([len(codes), *codes], dtype=np.int32)])
        return _SEVERAL - at

    def _kind(self, normalized: str) -> int:
        if normalized not in self._kinds:
            words = self._split(_FENCE + normalized + _FENCE)
            self._kinds[normalized] = {1: _LETTER, 2: _SPACE, 3: _MARK}[len(words)]
        return self._kinds[normalized]


@dataclass(frozen=True, kw_only=True)
class _Trie:
    """The vocabulary by character, its edges in one open-addressed table: key << 21 | node that it leads to.

    A key is node << 21 | character; no edge leads to node 0, so that 0 is an empty slot.
    """

    edges: Ints
    is_token: Bools
    inner: int  # the node after the prefix of tokens inside a word, -1 when there are none

    @classmethod
    def of(cls, vocab: Iterable[str], prefix: str) -> _Trie:
        """Return the trie of these tokens."""
        edges: dict[tuple[int, int], int] = {}
        ends: list[int] = []
        for token in sorted(vocab):
            node = 0
            for char in token:
                node = edges.setdefault((node, ord(char)), len(edges) + 1)
            ends.append(node)
        if len(edges) > _NODE_MASK:
            raise OverflowError(f"{len(edges)} beginnings of tokens; {_NODE_MASK} can be numbered")
        inner = 0
        for char in prefix:
            inner = edges.get((inner, ord(char)), -1) if inner >= 0 else -1
        is_token = np.zeros(len(edges) + 1, dtype=np.bool_)
        is_token[ends] = True
        is_token[0] = False
        return cls(edges=_table(edges), is_token=is_token, inner=inner)


def _table(edges: Mapping[tuple[int, int], int]) -> Ints:
    table = np.zeros(1 << max(4, (2 * len(edges)).bit_length()), dtype=np.int64)
    made = [(node << _CHAR_BITS | char) << _NODE_BITS | child for (node, char), child in edges.items()]
    _fill(table, np.array(made, dtype=np.int64))
    return table


@jit
def _slot(key: int, size: int) -> Any:
    return np.int64((np.uint64(key) * np.uint64(_MIX)) >> np.uint64(32)) & (size - 1)


@jit
def _fill(table: Ints, made: Ints) -> None:
    for edge in made:
        slot = _slot(edge >> _NODE_BITS, len(table))
        while table[slot]:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = edge


@jit
def _child(table: Ints, node: int, char: int) -> Any:
    key = np.int64(node) << _CHAR_BITS | char
    slot = _slot(key, len(table))
    while table[slot]:
        if table[slot] >> _NODE_BITS == key:
            return table[slot] & _NODE_MASK
        slot = (slot + 1) & (len(table) - 1)
    return np.int64(-1)


@jit
def _num_normalized(chars: Chars, codes: Codes, several: Codes) -> int:
    """Return how many characters the normalized text has, _UNSAFE where that cannot be told."""
    num = 0
    for char in chars:
        code = codes[char]
        if code == _UNSAFE:
            return _UNSAFE
        num += several[_SEVERAL - code] if code <= _SEVERAL else 1
    return num


@jit
def _normalized(chars: Chars, codes: Codes, several: Codes, most: int) -> tuple[Codes, Ints]:
    """Return the codes of the normalized text, a space behind them, and the place in the text that each comes from."""
    made, places = np.empty(most + 1, dtype=np.int32), np.empty(most + 1, dtype=np.int64)
    num = 0
    for place in range(len(chars)):
        code = codes[chars[place]]
        if code >= 0:
            made[num], places[num] = code, place
            num += 1
        elif code <= _SEVERAL:
            first = _SEVERAL - code
            for at in range(first + 1, first + 1 + several[first]):
                made[num], places[num] = several[at], place
                num += 1
    made[num], places[num] = _SPACE, len(chars)
    return made[: num + 1], places[: num + 1]


@jit
def _tokenize(made: Codes, places: Ints, trie: tuple[Ints, Bools, int], max_chars: int) -> tuple[Ints, Bools]:
    """Return (starts_T, is_word_T). No calls in the loop: each would count references to the arrays it is given."""
    edges, is_token, inner = trie
    starts, is_word = np.empty(len(made), dtype=np.int64), np.empty(len(made), dtype=np.bool_)
    num, at = 0, 0
    while at < len(made):
        if made[at] & 3 == _SPACE:
            at += 1
            continue
        end = at + 1
        if made[at] & 3 == _LETTER:
            while made[end] & 3 == _LETTER:
                end += 1
        begun, begin = num, at
        while begin < end and end - at <= max_chars and made[at] & 3 == _LETTER:
            node, best = (0 if begin == at else inner), -1
            for nth in range(begin, end):
                node = _child(edges, node, made[nth] >> 2) if node >= 0 else -1
                if node < 0:
                    break
                if is_token[node]:
                    best = nth + 1
            if best < 0:
                break
            starts[num], is_word[num] = places[begin], False
            num += 1
            begin = best
        if begin < end:  # a mark, or a word that is too long or has a piece that is not in the vocabulary
            starts[begun], num = places[at], begun + 1
        is_word[begun] = begun == 0 or starts[begun - 1] < starts[begun]
        at = end
    return starts[:num].copy(), is_word[:num].copy()
