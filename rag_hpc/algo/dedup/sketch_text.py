"""Kernels from UTF-8 bytes to the hashes of word n-grams: one document at a time, in buffers that stay in the cache.

1. `_normalise` copies the document in lower case with white space collapsed, 64 bytes at a time where they are ASCII;
2. `_find_words` turns the classes of 64 bytes into one number and writes down the places where its bits change;
3. `_hash_words` takes 16 bytes and one multiplication a word; 4. `_hash_grams` adds n words, order-sensitively.
Each is a loop without branches that depend on the text, but for rare ones: a wrong guess costs as much as three words.
Words are those of text/words.py in lower case, white space is that of `str.split`, for every code point. A character
that is a word gets a space on each side where it has none, so that the later steps know nothing of it.
Shapes: D bytes, N documents, G n-grams of one document, S n-grams of all documents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rag_hpc.algo.dedup.sketch_bits import (
    BLOCK,
    block_masks,
    fold,
    load64,
    lowest,
    mix32,
    pack_lower,
    popcount,
    put_places,
    special_mask,
    word_mask,
)
from rag_hpc.algo.jit import jit, jit_inner
from rag_hpc.algo.types import I32, I64, U8, U32, U64

PADDING = 2 * BLOCK  # bytes that the kernels may read or write after a document
WORD, SPACE, ALONE, JOINS = 1, 2, 4, 8  # classes of a code point: ALONE is a word, with those behind it that JOIN it
_ALL, _ONE, _TWO = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1), np.uint64(2)
_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)  # part of the output, as all constants here
_C, _D = np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xABC98388FB8FAC03)
_STEP = np.uint64(129)  # a shift and an addition: few machines multiply vectors of 64 bits fast
_HIGHEST = 0x110000
_HALF, _HALVES = np.uint64(8), np.uint64(16)


class Work(NamedTuple):
    """Buffers for the longest document of a call, and tables."""

    copy: U8  # of the document, where too few bytes follow it
    copied: U8  # the same, read-only like all data, so that kernels are compiled once
    text: U8  # the normalised document
    no_word: U64  # bit i: byte i is part of a character that is neither ASCII nor of a word
    edges: U32  # places where a word begins and where it ends, in turns
    long: U32  # words of more than 16 bytes
    words: U64
    sums: U64
    grams: U32
    ngram: int
    low_mask: U64
    high_mask: U64
    classes: U8
    lower: I32


def workspace(longest: int, ngram: int) -> Work:
    """Return buffers for documents of up to `longest` bytes (lower case and spaces take at most as much again)."""
    size = 2 * longest + PADDING
    lengths = np.arange(17)
    masks = [(1 << (8 * int(n))) - 1 for n in lengths]
    copy = np.zeros(longest + PADDING, np.uint8)
    copied = copy.view()
    copied.flags.writeable = False
    return Work(
        copy=copy,
        copied=copied,
        text=np.zeros(size + PADDING, np.uint8),
        no_word=np.zeros(size // BLOCK + 2, np.uint64),
        edges=np.zeros(size + 2 * BLOCK, np.uint32),
        long=np.zeros(size // 2 + BLOCK, np.uint32),
        words=np.zeros(size // 2 + ngram + 2 * BLOCK, np.uint64),
        sums=np.zeros(size // 2 + BLOCK, np.uint64),
        grams=np.zeros(size // 2 + 2 * BLOCK, np.uint32),
        ngram=ngram,
        low_mask=np.array([m & 0xFFFFFFFFFFFFFFFF for m in masks], np.uint64),
        high_mask=np.array([m >> 64 for m in masks], np.uint64),
        classes=code_points()[0],
        lower=code_points()[1],
    )


@lru_cache(maxsize=1)
def code_points() -> tuple[U8, I32]:
    """Return (classes, lower case) of every code point, as this Python's Unicode tables have them."""
    import re

    from rag_hpc.algo.text.words import LETTERS, MARKS

    everything = "".join(chr(c) if not 0xD800 <= c < 0xE000 else " " for c in range(_HIGHEST))
    alone = everything.replace("\u03a3", "\u03c3").replace("\u0130", "i")
    lowered = alone.lower()
    lower = np.frombuffer(lowered.encode("utf-32-le"), np.int32).copy()
    surrogates = slice(0xD800, 0xE000)
    lower[surrogates] = np.arange(0xD800, 0xE000)
    classes = np.zeros(_HIGHEST, np.uint8)
    for pattern, kind in ((r"\w+", WORD), (r"\s+", SPACE), (f"[{LETTERS}]+", ALONE), (f"[{MARKS}]+", JOINS)):
        for match in re.finditer(pattern, lowered):
            classes[match.start() : match.end()] |= kind
    classes[surrogates] = 0
    return classes, lower


@jit
def documents_for_python(data: U8, ends_N: I64) -> I64:
    """Return the documents with a capital sigma or dotted I: their lower case depends on the context, or is longer.

    One that the next document's first character brings here does no harm.
    """
    found, num_found, begin = np.empty(len(ends_N), np.int64), 0, np.int64(0)
    for doc in range(len(ends_N)):
        special = np.uint64(0)
        for at in range(begin, ends_N[doc], BLOCK):
            if at + BLOCK >= len(data):
                special |= np.uint64(_special_end(data, at))
            elif block_masks(data, at)[1]:
                special |= special_mask(data, at)
        found[num_found] = doc
        num_found += special != 0
        begin = ends_N[doc]
    return found[:num_found]


@jit_inner
def _special_end(data: U8, at: int) -> int:
    """Return how many special letters are among the last bytes, which are no whole block."""
    found = 0
    for place in range(at, len(data) - 1):
        lead, tail = data[place], data[place + 1]
        found += (lead == 0xCE and tail == 0xA3) or (lead == 0xC4 and tail == 0xB0)
    return found


@jit_inner
def mix(value: np.uint64) -> np.uint64:
    """Return the value after the 64-bit finalizer of MurmurHash3."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    value ^= value >> np.uint64(33)
    return value


@jit_inner
def hash_grams(data: U8, begin: Any, end: int, work: Work) -> tuple[int, np.uint64]:
    """Fill work.grams[:G] with the hashes of a document's n-grams; return (G, hash of the normalised text)."""
    if end + BLOCK > len(data):
        for place in range(begin, end):
            work.copy[place - begin] = data[place]
        size = _normalise(work.copied, 0, end - begin, work)
    else:
        size = _normalise(data, begin, end, work)
    return _hash_grams(_hash_words(_find_words(size, work), work), work), _hash_text(work.text, size)


@jit_inner
def _normalise(data: U8, begin: int, end: int, work: Work) -> Any:
    text, at = work.text, begin
    to: Any = 0
    after_space = _ONE  # white space at the front is dropped
    joinable = False  # the space before `to` is that of a character that is a word
    while at < end:
        count: Any = min(end - at, BLOCK)
        space, high = block_masks(data, at)
        count = min(count, np.int64(lowest(high)))
        if count:
            valid = _ALL >> np.uint64(BLOCK - count)
            space &= valid
            keep = valid & ~(space & ((space << _ONE) | after_space))
            pack_lower(data, at, keep, text, to)
            to += np.int64(popcount(keep))
            after_space = (space >> np.uint64(count - 1)) & _ONE
            joinable = False
            at += count
        while at < end and data[at] >= 128:
            code, length = _decode(data, at, end)
            kind = work.classes[code] if code >= 0 else np.uint8(0)
            at += length
            if kind == SPACE:
                text[to] = 32
                to += np.int64(_ONE - after_space)
                after_space, joinable = _ONE, False
                continue
            if kind & (ALONE | JOINS):
                to, after_space = _put_word(work.lower[code], text, to, after_space, bool(kind & JOINS) and joinable)
                joinable = True
                continue
            after_space, joinable = np.uint64(0), False
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


@jit_inner
def _put_word(code: int, text: U8, to: Any, after_space: np.uint64, joins: bool) -> tuple[Any, np.uint64]:
    """Write a character that is a word, or joins the one before, and a space; return what `_normalise` keeps."""
    if joins:
        to -= 1
    elif not after_space:
        text[to] = 32
        to += 1
    to += _encode(code, text, to)
    text[to] = 32
    return to + 1, _ONE


@jit_inner
def _decode(data: U8, at: int, end: int) -> tuple[Any, int]:
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


@jit_inner
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


@jit_inner
def _hash_text(text: U8, size: int) -> np.uint64:
    a, b, c, d = _A ^ np.uint64(size), _B, _C, _D
    for at in range(0, size, 64):
        a = fold(a ^ load64(text, at), _C ^ load64(text, at + 8))
        b = fold(b ^ load64(text, at + 16), _D ^ load64(text, at + 24))
        c = fold(c ^ load64(text, at + 32), _A ^ load64(text, at + 40))
        d = fold(d ^ load64(text, at + 48), _B ^ load64(text, at + 56))
    return mix(fold(a ^ _C, b ^ _D) ^ (fold(c ^ _A, d ^ _B) * _C))


@jit_inner
def _find_words(size: int, work: Work) -> Any:
    """Fill work.edges with where words begin and end, in turns; return the number of words."""
    text, edges, inside = work.text, work.edges, np.uint64(0)
    num_edges: Any = 0
    for block in range((size + BLOCK) // BLOCK):  # a zero follows the last word, at the latest in a block of its own
        mask = word_mask(text, block * BLOCK) & ~work.no_word[block]
        work.no_word[block] = 0
        found = mask ^ ((mask << _ONE) | inside)
        inside = mask >> np.uint64(63)
        put_places(found, np.uint64(block * BLOCK), edges, num_edges)
        num_edges += np.int64(popcount(found))
    return num_edges // 2


@jit_inner
def _hash_words(num_words: int, work: Work) -> int:
    """Fill work.words[:W] with the hashes of the words; return W. Unsigned places save the check for negative ones."""
    text, words, edges, long, num_long = work.text, work.words, work.edges, work.long, np.uint64(0)
    for word in range(np.uint64(num_words)):
        begin = np.uint64(edges[_TWO * word])
        length = np.uint64(edges[_TWO * word + _ONE]) - begin
        known = min(length, _HALVES)
        low, high = load64(text, begin) & work.low_mask[known], load64(text, begin + _HALF) & work.high_mask[known]
        words[word] = fold(low ^ _A, high ^ _B)
        long[num_long] = word
        num_long += np.uint64(length > _HALVES)
    for i in range(num_long):
        rest = np.uint64(long[i])
        begin = np.uint64(edges[_TWO * rest])
        length = np.uint64(edges[_TWO * rest + _ONE]) - begin
        words[rest] = _hash_rest(words[rest], begin + _HALVES, length - _HALVES, work)
    return num_words


@jit_inner
def _hash_rest(value: np.uint64, begin: np.uint64, length: np.uint64, work: Work) -> np.uint64:
    for at in range(0, np.int64(length), 8):
        known = min(length - np.uint64(at), _HALF)
        value = fold(value ^ _C, (load64(work.text, begin + np.uint64(at)) & work.low_mask[known]) ^ _D)
    return value


@jit_inner
def _hash_grams(num_words: int, work: Work) -> int:
    if num_words == 0:
        return 0
    n = min(work.ngram, num_words)
    num_grams = num_words - n + 1
    words, sums, grams = work.words, work.sums, work.grams
    if n == 5:  # the usual length in one pass
        second, third, fourth, fifth = words[1:], words[2:], words[3:], words[4:]
        for gram in range(num_grams):
            total = (np.uint64(n) * _STEP + words[gram]) * _STEP + second[gram]
            grams[gram] = _short(((total * _STEP + third[gram]) * _STEP + fourth[gram]) * _STEP + fifth[gram])
        return num_grams
    sums[:num_grams] = np.uint64(n)
    for place in range(n):
        others = words[place:]
        for gram in range(num_grams):
            sums[gram] = sums[gram] * _STEP + others[gram]
    for gram in range(num_grams):
        grams[gram] = _short(sums[gram])
    return num_grams


@jit_inner
def _short(total: np.uint64) -> np.uint32:
    """Return 32 mixed bits of 64 (finalizer of MurmurHash3)."""
    short: np.uint32 = mix32(np.uint32(total ^ (total >> np.uint64(32))), 16, 13, 0x85EBCA6B, 16, 0xC2B2AE35)
    return short
