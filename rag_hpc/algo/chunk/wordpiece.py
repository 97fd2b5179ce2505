"""WordPiece at compiled speed: where the tokens of a text begin, and their numbers in the vocabulary.

Normalizing and splitting are learned from the tokenizer itself, one character at a time and only for characters that
occur: both steps of a BERT tokenizer treat each character alone, except for combining marks that a normal form
reorders. Texts with such marks, or with the text of a special token, are for the tokenizer itself.
Source of the algorithm: Wu et al. 2016 (WordPiece); greedy longest match over a trie.
C characters of a text, N of its normalized form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_hpc.algo.chunk.chunking import Tokens
from rag_hpc.algo.jit import jit
from rag_hpc.algo.text.chartable import CharTable, characters
from rag_hpc.algo.types import I32, I64, U32, Bools

_DROPPED, _UNSAFE, _SEVERAL = -1, -2, -3  # codes of characters; a list of several counts down from -3
_SPACE, _MARK, _LETTER = 0, 1, 2  # what a normalized character is: between words, a word of its own, part of a word
_FENCE = "0"  # nothing else is normalized to it
_MIX = 0x9E3779B97F4A7C15
_CHAR_BITS, _NODE_BITS = 21, 21  # a key takes both and a node once more: 63 bits
_NODE_MASK = (1 << _NODE_BITS) - 1


class WordPiece:
    """Makes the tokens of the tokenizer whose vocabulary and first two steps it is given."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        prefix: str,
        unknown: str,
        max_word_chars: int,
        normalize: Callable[[str], str],
        split: Callable[[str], list[str]],
    ) -> None:
        """prefix: of tokens inside a word. unknown: of words without tokens. split: a normalized text's words in order.

        Raises OverflowError when the vocabulary has more beginnings of tokens than a table of edges can number.
        """
        self._normalize, self._split = normalize, split
        self._max_word_chars = max_word_chars
        self._kinds: dict[str, int] = {}
        self._several = np.zeros(1, dtype=np.int32)  # length, then codes, of each character that makes several
        self._table = CharTable(self._code)
        self._trie = _Trie.of(vocab, prefix)
        self._unknown = vocab.get(unknown, 0)

    def tokens(self, text: str) -> Tokens | None:
        """Return the tokens without special ones; None where only the tokenizer itself can tell them."""
        read = self._read(text)
        return None if read is None else Tokens(starts_T=read[0], is_word_T=read[1])

    def ids(self, text: str) -> I32 | None:
        """Return the tokens' numbers in the vocabulary; None where only the tokenizer itself can tell them."""
        read = self._read(text)
        return None if read is None else read[2]

    def _read(self, text: str) -> tuple[I64, Bools, I32] | None:
        chars_C = characters(text)
        codes = self._table.codes(chars_C)
        most = _num_normalized(chars_C, codes, self._several)
        if most == _UNSAFE:
            return None
        made_N, places_N = _normalized(chars_C, codes, self._several, most)
        trie = (self._trie.edges, self._trie.token_ids, self._trie.inner, self._unknown)
        tokens: tuple[I64, Bools, I32] = _tokenize(made_N, places_N, trie, self._max_word_chars)
        return tokens

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

    edges: I64
    token_ids: I32  # by node, -1 where no token ends
    inner: int  # the node after the prefix of tokens inside a word, -1 when there are none

    @classmethod
    def of(cls, vocab: Mapping[str, int], prefix: str) -> _Trie:
        """Return the trie of these tokens."""
        edges: dict[tuple[int, int], int] = {}
        ends: list[int] = []
        tokens = sorted(vocab)
        for token in tokens:
            node = 0
            for char in token:
                node = edges.setdefault((node, ord(char)), len(edges) + 1)
            ends.append(node)
        if len(edges) > _NODE_MASK:
            raise OverflowError(f"{len(edges)} beginnings of tokens; {_NODE_MASK} can be numbered")
        inner = 0
        for char in prefix:
            inner = edges.get((inner, ord(char)), -1) if inner >= 0 else -1
        token_ids = np.full(len(edges) + 1, -1, dtype=np.int32)
        token_ids[ends] = [vocab[token] for token in tokens]
        token_ids[0] = -1
        return cls(edges=_table(edges), token_ids=token_ids, inner=inner)


def _table(edges: Mapping[tuple[int, int], int]) -> I64:
    table = np.zeros(1 << max(4, (2 * len(edges)).bit_length()), dtype=np.int64)
    made = [(node << _CHAR_BITS | char) << _NODE_BITS | child for (node, char), child in edges.items()]
    _fill(table, np.array(made, dtype=np.int64))
    return table


@jit
def _slot(key: Any, size: int) -> Any:
    return np.int64((np.uint64(key) * np.uint64(_MIX)) >> np.uint64(32)) & (size - 1)


@jit
def _fill(table: I64, made: I64) -> None:
    for edge in made:
        slot = _slot(edge >> _NODE_BITS, len(table))
        while table[slot]:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = edge


@jit
def _child(table: I64, node: int, char: int) -> Any:
    key = np.int64(node) << _CHAR_BITS | char
    slot = _slot(key, len(table))
    while table[slot]:
        if table[slot] >> _NODE_BITS == key:
            return table[slot] & _NODE_MASK
        slot = (slot + 1) & (len(table) - 1)
    return np.int64(-1)


@jit
def _num_normalized(chars: U32, codes: I32, several: I32) -> int:
    """Return how many characters the normalized text has, _UNSAFE where that cannot be told."""
    num = 0
    for char in chars:
        code = codes[char]
        if code == _UNSAFE:
            return _UNSAFE
        num += several[_SEVERAL - code] if code <= _SEVERAL else 1
    return num


@jit
def _normalized(chars: U32, codes: I32, several: I32, most: int) -> tuple[I32, I64]:
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
def _tokenize(made: I32, places: I64, trie: tuple[I64, I32, int, int], max_chars: int) -> tuple[I64, Bools, I32]:
    """Return (starts_T, is_word_T, ids_T). No calls in the loop: each would count references to the arrays it has."""
    edges, token_ids, inner, unknown = trie
    starts, is_word = np.empty(len(made), dtype=np.int64), np.empty(len(made), dtype=np.bool_)
    ids = np.empty(len(made), dtype=np.int32)
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
            node, best, token = (0 if begin == at else inner), -1, -1
            for nth in range(begin, end):
                node = _child(edges, node, made[nth] >> 2) if node >= 0 else -1
                if node < 0:
                    break
                if token_ids[node] >= 0:
                    best, token = nth + 1, token_ids[node]
            if best < 0:
                break
            starts[num], is_word[num], ids[num] = places[begin], False, token
            num += 1
            begin = best
        if begin < end:  # a mark, or a word that is too long or has a piece that is not in the vocabulary
            node = _child(edges, 0, made[at] >> 2) if made[at] & 3 == _MARK else -1
            starts[begun], num = places[at], begun + 1
            ids[begun] = token_ids[node] if node >= 0 and token_ids[node] >= 0 else unknown
        is_word[begun] = begun == 0 or starts[begun - 1] < starts[begun]
        at = end
    return starts[:num].copy(), is_word[:num].copy(), ids[:num].copy()
