"""Word n-gram shingles as 64-bit hashes. Shapes: W words, S unique shingles."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import xxhash

U64 = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_SEED = 0x5241475F  # part of the output: another value is another stage version
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def shingles(text: str, n: int = 5) -> U64:
    """Return the sorted unique hashes_S of the word n-grams of the text.

    Words are runs of `\\w` in lower case. A text with fewer than n words (but at least one) has one shingle,
    made of all its words; a text without words has none.
    A shingle's hash is the sum of its words' XXH3 hashes, each times an odd constant that stands for its place,
    then mixed: order matters, and no n-gram string is built.
    """
    words = _WORD.findall(text.lower())
    if not words:
        return np.empty(0, dtype=np.uint64)
    joined = " ".join(words).encode("utf-8", "surrogatepass").split(b" ")
    hashes_W = np.fromiter(map(_word_hash, joined), dtype=np.uint64, count=len(joined))
    n = min(n, len(words))
    num_grams = len(words) - n + 1
    total = np.full(num_grams, n, dtype=np.uint64)
    for place in range(n):
        total += hashes_W[place : place + num_grams] * _odd_constant(place)
    return np.unique(mix64(total))


def mix64(values: U64) -> U64:
    """Return the values after the 64-bit finalizer of MurmurHash3, a bijection that spreads every bit."""
    out = values ^ (values >> np.uint64(33))
    out *= np.uint64(0xFF51AFD7ED558CCD)
    out ^= out >> np.uint64(33)
    out *= np.uint64(0xC4CEB9FE1A85EC53)
    out ^= out >> np.uint64(33)
    return out


def _word_hash(word: bytes) -> int:
    return xxhash.xxh3_64_intdigest(word, _SEED)


def _odd_constant(place: int) -> np.uint64:
    """Return the multiplier of a place: step `place + 1` of a Weyl sequence, made odd."""
    return np.uint64(((place + 1) * _GOLDEN & _MASK) | 1)
