"""Kernels from UTF-8 bytes to the hashes of word n-grams: one document at a time, in buffers that stay in the cache.

1. `_normalise` copies the document in lower case with white space collapsed, 64 bytes at a time where they are ASCII;
2. `_hash_words` turns the classes of 64 bytes into one number, reads the words' ends off its bits, and takes 16 bytes
   and one multiplication a word; 3. `_hash_grams` adds n words, order-sensitively.
Words are those of `re.findall(r"\\w+", text.lower())`, white space is that of `str.split`, for every code point.
Shapes: D bytes, N documents, G n-grams of one document, S n-grams of all documents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.jit import jit
from rag_hpc.algo.minhash import mix64
from rag_hpc.algo.sketch_bits import BLOCK, block_masks, copy_lower, fold, load64, lowest, special_mask, word_mask

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

PADDING = 2 * BLOCK  # readable bytes that the kernels need after a document
WORD, SPACE = 1, 2  # classes of a code point
_ALL, _ONE, _TWO = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1), np.uint64(2)
_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)  # part of the output, as all constants here
_C, _D = np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xABC98388FB8FAC03)
_HIGHEST = 0x110000
_HALF, _HALVES = np.uint64(8), np.uint64(16)


class Work(NamedTuple):
    """Buffers for the longest document of a call, and tables."""

    text: U8  # the normalised document
    no_word: U64  # bit i: byte i is part of a character that is neither ASCII nor of a word
    words: U64
    sums: U64
    grams: U32
    factors: U64  # one odd number for each place in an n-gram
    low_mask: U64
    high_mask: U64
    classes: U8
    lower: npt.NDArray[np.int32]


def workspace(longest: int, ngram: int) -> Work:
    """Return buffers for documents of up to `longest` bytes (lower case takes at most half as much again)."""
    size = longest + longest // 2 + PADDING
    lengths = np.arange(17)
    masks = [(1 << (8 * int(n))) - 1 for n in lengths]
    return Work(
        text=np.zeros(size + PADDING, np.uint8),
        no_word=np.zeros(size // BLOCK + 2, np.uint64),
        words=np.zeros(size // 2 + BLOCK, np.uint64),
        sums=np.zeros(size // 2 + BLOCK, np.uint64),
        grams=np.zeros(size // 2 + BLOCK, np.uint32),
        factors=mix64(np.arange(1, ngram + 1, dtype=np.uint64)) | np.uint64(1),
        low_mask=np.array([m & 0xFFFFFFFFFFFFFFFF for m in masks], np.uint64),
        high_mask=np.array([m >> 64 for m in masks], np.uint64),
        classes=code_points()[0],
        lower=code_points()[1],
    )


@lru_cache(maxsize=1)
def code_points() -> tuple[U8, npt.NDArray[np.int32]]:
    """Return (classes, lower case) of every code point, as this Python's Unicode tables have them."""
    import re

    everything = "".join(chr(c) if not 0xD800 <= c < 0xE000 else " " for c in range(_HIGHEST))
    alone = everything.replace("\u03a3", "\u03c3").replace("\u0130", "i")
    lowered = alone.lower()
    lower = np.frombuffer(lowered.encode("utf-32-le"), np.int32).copy()
    surrogates = slice(0xD800, 0xE000)
    lower[surrogates] = np.arange(0xD800, 0xE000)
    classes = np.zeros(_HIGHEST, np.uint8)
    for match in re.finditer(r"\w+", lowered):
        classes[match.start() : match.end()] |= WORD
    for match in re.finditer(r"\s+", lowered):
        classes[match.start() : match.end()] |= SPACE
    classes[surrogates] = 0
    return classes, lower


@jit
def documents_for_python(data: U8, ends_N: I64) -> I64:
    """Return the documents with a capital sigma or dotted I: their lower case depends on the context, or is longer.

    One that the next document's first character brings here does no harm. PADDING must follow the last document.
    """
    found, num_found, begin = np.empty(len(ends_N), np.int64), 0, np.int64(0)
    for doc in range(len(ends_N)):
        special = np.uint64(0)
        for at in range(begin, ends_N[doc], BLOCK):
            special |= special_mask(data, at)
        found[num_found] = doc
        num_found += special != 0
        begin = ends_N[doc]
    return found[:num_found]


@jit
def mix(value: np.uint64) -> np.uint64:
    """Return the value after the 64-bit finalizer of MurmurHash3."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    value ^= value >> np.uint64(33)
    return value


@jit
def hash_grams(data: U8, begin: int, end: int, work: Work) -> tuple[int, np.uint64]:
    """Fill work.grams[:G] with the hashes of a document's n-grams; return (G, hash of the normalised text)."""
    size = _normalise(data, begin, end, work)
    exact = _hash_text(work.text, size)
    return _hash_grams(_hash_words(size, work), work), exact


@jit
def _normalise(data: U8, begin: int, end: int, work: Work) -> int:
    text, at, to = work.text, begin, 0
    after_space = _ONE  # white space at the front is dropped
    while at < end:
        count = min(end - at, BLOCK)
        space, high = block_masks(data, at)
        count = min(count, np.int64(lowest(high)))
        if count:
            valid = _ALL >> np.uint64(BLOCK - count)
            space &= valid
            repeated = space & ((space << _ONE) | after_space)
            if repeated == 0:
                copy_lower(data, at, text, to)
                to += count
            else:
                to = _copy_runs(data, at, valid & ~repeated, text, to)
            after_space = (space >> np.uint64(count - 1)) & _ONE
            at += count
        while at < end and data[at] >= 128:
            code, length = _decode(data, at, end)
            kind = work.classes[code] if code >= 0 else np.uint8(0)
            at += length
            if kind == SPACE:
                text[to] = 32
                to += np.int64(_ONE - after_space)
                after_space = _ONE
                continue
            after_space = np.uint64(0)
            if code < 0:
                text[to] = data[at - 1]
                length = 1
            else:
                length = _encode(work.lower[code], text, to)
            if kind != WORD and text[to] >= 128:
                for place in range(to, to + length):
                    work.no_word[place >> 6] |= _ONE << np.uint64(place & 63)
            to += length
    if to > 0 and after_space:
        to -= 1
    text[to : to + PADDING] = 0
    return to


@jit
def _copy_runs(data: U8, at: int, keep: np.uint64, text: U8, to: int) -> int:
    while keep:
        first = np.int64(lowest(keep))
        length = np.int64(lowest(~(keep >> np.uint64(first))))
        copy_lower(data, at + first, text, to)
        to += length
        if first + length >= BLOCK:
            break
        keep &= _ALL << np.uint64(first + length)
    return to


@jit
def _decode(data: U8, at: int, end: int) -> tuple[int, int]:
    """Return (code point, bytes) of the character at a byte >= 128; (-1, 1) where the bytes are not UTF-8."""
    lead = np.int64(data[at])
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or at + length > end:
        return -1, 1
    code = lead & (0x7F >> length)
    for place in range(at + 1, at + length):
        byte = np.int64(data[place])
        if byte & 0xC0 != 0x80:
            return -1, 1
        code = (code << 6) | (byte & 0x3F)
    if code >= _HIGHEST:
        return -1, 1
    return code, length


@jit
def _encode(code: int, text: U8, to: int) -> int:
    if code < 0x80:
        text[to] = code
        return 1
    if code < 0x800:
        text[to] = 0xC0 | (code >> 6)
        text[to + 1] = 0x80 | (code & 0x3F)
        return 2
    if code < 0x10000:
        text[to] = 0xE0 | (code >> 12)
        text[to + 1] = 0x80 | ((code >> 6) & 0x3F)
        text[to + 2] = 0x80 | (code & 0x3F)
        return 3
    text[to] = 0xF0 | (code >> 18)
    text[to + 1] = 0x80 | ((code >> 12) & 0x3F)
    text[to + 2] = 0x80 | ((code >> 6) & 0x3F)
    text[to + 3] = 0x80 | (code & 0x3F)
    return 4


@jit
def _hash_text(text: U8, size: int) -> np.uint64:
    a, b = _A ^ np.uint64(size), _B
    for at in range(0, size, 32):
        a = fold(a ^ load64(text, at), _C ^ load64(text, at + 8))
        b = fold(b ^ load64(text, at + 16), _D ^ load64(text, at + 24))
    return mix(a ^ (b * _C))


@jit
def _hash_words(size: int, work: Work) -> int:
    """Fill work.words[:W] with the hashes of the words; return W. Unsigned places save the check for negative ones."""
    text, words, num_words, begin, inside = work.text, work.words, np.uint64(0), np.uint64(0), np.uint64(0)
    for block in range((size + BLOCK) // BLOCK):  # a zero follows the last word, at the latest in a block of its own
        mask = word_mask(text, block * BLOCK) & ~work.no_word[block]
        work.no_word[block] = 0
        base, before = np.uint64(block * BLOCK), (mask << _ONE) | inside
        begins, ends = mask & ~before, before & ~mask
        if not inside:
            begin = base + lowest(begins)
            begins &= begins - _ONE
        inside = mask >> np.uint64(63)
        first, first_begin, first_begins, first_ends, longest = num_words, begin, begins, ends, np.uint64(0)
        while ends:
            length = base + lowest(ends) - begin
            ends &= ends - _ONE
            longest = max(longest, length)
            known = min(length, _HALVES)
            low, high = load64(text, begin) & work.low_mask[known], load64(text, begin + _HALF) & work.high_mask[known]
            words[num_words] = fold(low ^ _A, high ^ _B)
            num_words += _ONE
            begin = base + lowest(begins)  # of the next word, if there is one in this block
            begins &= begins - _ONE
        if longest > _HALVES:  # rare: once for the block, where a branch at each word would often be mispredicted
            _finish_long_words(first, first_begin, base, first_begins, first_ends, work)
    return int(num_words)


@jit
def _finish_long_words(
    word: np.uint64, begin: np.uint64, base: np.uint64, begins: np.uint64, ends: np.uint64, work: Work
) -> None:
    """Hash what comes after the first 16 bytes of a block's words."""
    while ends:
        length = base + lowest(ends) - begin
        if length > _HALVES:
            work.words[word] = _hash_rest(work.words[word], begin + _HALVES, length - _HALVES, work)
        word += _ONE
        begin = base + lowest(begins)
        begins &= begins - _ONE
        ends &= ends - _ONE


@jit
def _hash_rest(value: np.uint64, begin: np.uint64, length: np.uint64, work: Work) -> np.uint64:
    for at in range(0, np.int64(length), 8):
        known = min(length - np.uint64(at), _HALF)
        value = fold(value ^ _C, (load64(work.text, begin + np.uint64(at)) & work.low_mask[known]) ^ _D)
    return value


@jit
def _hash_grams(num_words: int, work: Work) -> int:
    if num_words == 0:
        return 0
    n = min(len(work.factors), num_words)
    num_grams = num_words - n + 1
    sums, grams = work.sums, work.grams
    sums[:num_grams] = np.uint64(n)
    for place in range(n):
        factor = work.factors[place]
        words = work.words[place:]
        for gram in range(num_grams):
            sums[gram] += words[gram] * factor
    for gram in range(num_grams):
        grams[gram] = np.uint32(mix(sums[gram]) >> np.uint64(32))
    return num_grams
