"""Word n-gram shingles as 64-bit hashes. Shapes: W words, S unique shingles."""

from __future__ import annotations

import re
from itertools import repeat

import numpy as np
import numpy.typing as npt
import xxhash

U64 = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_ASCII_WORDS = bytes(code if code < 128 and (chr(code).isalnum() or code == ord("_")) else 32 for code in range(256))
_SEED = 0x5241475F  # part of the output: another value is another stage version


def shingles(text: str, n: int = 5) -> U64:
    """Return the sorted unique hashes_S of the word n-grams of the text.

    Words are runs of `\\w` in lower case. A text with fewer than n words (but at least one) has one shingle,
    made of all its words; a text without words has none.
    A shingle's hash is the sum of its words' XXH3 hashes, each times an odd constant that stands for its place,
    then mixed: order matters, and no n-gram string is built.
    """
    words = _words(text.lower())
    if not words:
        return np.empty(0, dtype=np.uint64)
    hashes_W = np.fromiter(map(xxhash.xxh3_64_intdigest, words, repeat(_SEED)), dtype=np.uint64, count=len(words))
    n = min(n, len(words))
    num_grams = len(words) - n + 1
    total = np.full(num_grams, n, dtype=np.uint64)
    # a Weyl sequence will not do here: 1 + 4 = 2 + 3 would make "a b b a" and "b a a b" meet
    factors = mix64(np.arange(1, n + 1, dtype=np.uint64)) | np.uint64(1)
    for place in range(n):
        total += hashes_W[place : place + num_grams] * factors[place]
    return np.unique(mix64(total))


def mix64(values: U64) -> U64:
    """Return the values after the 64-bit finalizer of MurmurHash3, a bijection that spreads every bit."""
    out: U64 = values ^ (values >> np.uint64(33))
    out *= np.uint64(0xFF51AFD7ED558CCD)
    out ^= out >> np.uint64(33)
    out *= np.uint64(0xC4CEB9FE1A85EC53)
    out ^= out >> np.uint64(33)
    return out


def _words(text: str) -> list[bytes]:
    if text.isascii():  # the same words as the pattern finds, in half the time
        return text.encode("ascii").translate(_ASCII_WORDS).split()
    return [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text)]
