"""Kernels from code points to words and to what their n-grams repeat. Importing this imports numba.

The words are those of spaCy's English rules as far as these go by characters: punctuation at the edges of a run without
spaces stands alone, "n't" and the like are cut off, hyphens and slashes between letters are words of their own,
addresses stay whole. Shapes: C code points, W words.
"""

from __future__ import annotations

import numpy as np

from rag_hpc.algo.jit import jit
from rag_hpc.algo.types import I32, U8, U32, U64

LETTER, UPPER, DIGIT, SPACE, EDGE, QUOTE, JOINT, SYMBOL = 1, 2, 4, 8, 16, 32, 64, 128  # classes of a code point
_DOT, _COMMA, _PLUS, _MINUS, _PERCENT, _EQUALS, _SLASH, _COLON = 46, 44, 43, 45, 37, 61, 47, 58
_LESS, _MORE, _STAR, _CARET, _APOSTROPHE, _CURLY = 60, 62, 42, 94, 39, 8217
_A, _M = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x2545F4914F6CDD1D)
_FNV, _S32 = np.uint64(0x100000001B3), np.uint64(32)


@jit
def find_words(codes_C: U32, classes: U8, hashes_W: U64, lengths_W: I32) -> tuple[int, int, int, int]:
    """Fill hashes_W and lengths_W (room for C words) and return the number of words, of words that are not only
    symbols, of characters in these, and of words with a letter."""
    size, at = len(codes_C), 0
    cuts = np.zeros(size + 1, np.uint8)  # 1 where a word begins inside a run
    words = solid = solid_chars = alphabetic = 0
    while at < size:
        begin = at
        while at < size and not classes[codes_C[at]] & SPACE:
            at += 1
        if at > begin:
            _cut_run(codes_C, classes, cuts, begin, at)
        first = begin
        while first < at:
            end, kinds, all_symbols, value = first, 0, SYMBOL, _A
            while end == first or (end < at and not cuts[end]):
                kind = classes[codes_C[end]]
                kinds |= kind
                all_symbols &= kind
                value = (value ^ np.uint64(codes_C[end])) * _FNV
                end += 1
            hashes_W[words] = (value ^ (value >> _S32)) * _M
            lengths_W[words] = end - first
            words += 1
            if not all_symbols:
                solid += 1
                solid_chars += end - first
            alphabetic += kinds & LETTER
            first = end
        at += 1
    return words, solid, solid_chars, alphabetic


@jit
def _cut_run(codes_C: U32, classes: U8, cuts: U8, begin: int, end: int) -> None:
    begin = _cut_front(codes_C, classes, cuts, begin, end)
    end = _cut_back(codes_C, classes, cuts, begin, end)
    if end - begin > 2:
        _cut_contraction(codes_C, cuts, begin, end)
        if not _is_address(codes_C, classes, begin, end):
            _cut_inside(codes_C, classes, cuts, begin, end)


@jit
def _cut_front(codes_C: U32, classes: U8, cuts: U8, begin: int, end: int) -> int:
    while begin < end:
        code = codes_C[begin]
        if code == _DOT and begin + 1 < end and codes_C[begin + 1] == _DOT:
            while begin < end and codes_C[begin] == _DOT:
                begin += 1
        elif not classes[code] & EDGE or (code == _PLUS and begin + 1 < end and classes[codes_C[begin + 1]] & DIGIT):
            break
        else:
            begin += 1
        cuts[begin] = 1
    return begin


@jit
def _cut_back(codes_C: U32, classes: U8, cuts: U8, begin: int, end: int) -> int:
    while end > begin:
        code = codes_C[end - 1]
        before = classes[codes_C[end - 2]] if end - 2 >= begin else np.uint8(0)
        possessive = (code == 115 or code == 83) and end - begin > 2 and _is_apostrophe(codes_C[end - 2])
        if possessive:
            end -= 2
        elif code == _DOT and end - 2 >= begin and codes_C[end - 2] == _DOT:
            while end > begin and codes_C[end - 1] == _DOT:
                end -= 1
        elif code == _DOT:
            if not _is_full_stop(codes_C, classes, begin, end):
                break
            end -= 1
        elif not classes[code] & EDGE or code == _EQUALS or (code in (_PLUS, _PERCENT) and not before & DIGIT):
            break
        else:
            end -= 1
        cuts[end] = 1
    return end


@jit
def _is_apostrophe(code: int) -> bool:
    return code in (_APOSTROPHE, _CURLY)


@jit
def _is_full_stop(codes_C: U32, classes: U8, begin: int, end: int) -> bool:
    """Return whether the dot at end - 1 is a word: not after an initial, a single letter or inside "e.g."."""
    if end - 2 < begin:
        return False
    before = classes[codes_C[end - 2]]
    second = classes[codes_C[end - 3]] if end - 3 >= begin else np.uint8(0)
    if before & LETTER:
        if end - 2 == begin and not before & UPPER:
            return False
        if end - 4 >= begin and codes_C[end - 3] == _DOT and classes[codes_C[end - 4]] & LETTER:
            return False
        return not before & UPPER or bool(second & UPPER)
    return bool(before & (DIGIT | QUOTE)) or bool(before & (EDGE | SYMBOL) == EDGE | SYMBOL)


@jit
def _cut_contraction(codes_C: U32, cuts: U8, begin: int, end: int) -> None:
    size, last, second, third = end - begin, codes_C[end - 1], codes_C[end - 2], codes_C[end - 3]
    if _is_apostrophe(second):
        if size > 3 and last == 116 and third == 110:  # n't
            cuts[end - 3] = 1
        elif last == 109 or last == 100:  # 'm 'd
            cuts[end - 2] = 1
    elif size > 3 and _is_apostrophe(third):  # 're 've 'll
        if (last == 101 and (second == 114 or second == 118)) or (last == 108 and second == 108):
            cuts[end - 3] = 1
    elif (
        size == 6
        and last == 116
        and second == 111
        and third == codes_C[begin + 2] == 110
        and (codes_C[begin + 1] == 97 and codes_C[begin] in (67, 99))
    ):  # cannot
        cuts[begin + 3] = 1


@jit
def _is_address(codes_C: U32, classes: U8, begin: int, end: int) -> bool:
    at = begin
    while at < end and classes[codes_C[at]] & LETTER:
        at += 1
    return at > begin and at + 2 < end and codes_C[at] == _COLON and codes_C[at + 1] == codes_C[at + 2] == _SLASH


@jit
def _cut_inside(codes_C: U32, classes: U8, cuts: U8, begin: int, end: int) -> None:
    at = begin + 1
    while at < end - 1:
        code, after = codes_C[at], at + 1
        left, right = classes[codes_C[at - 1]], classes[codes_C[after]]
        hit = False
        if code == _DOT and codes_C[after] == _DOT:
            while after < end and codes_C[after] == _DOT:
                after += 1
            hit = True
        elif code == _DOT:
            hit = (left & QUOTE or (left & LETTER and not left & UPPER)) and right & (UPPER | QUOTE)
        elif code == _COMMA:
            hit = left & LETTER and right & LETTER
        elif code in (_COLON, _SLASH, _EQUALS, _LESS, _MORE):
            hit = left & (LETTER | DIGIT) and right & LETTER
        elif left & DIGIT and (right & DIGIT or codes_C[after] == _MINUS):
            hit = code in (_PLUS, _MINUS, _STAR, _CARET)
        elif classes[code] & JOINT and left & (LETTER | DIGIT):
            while after < end and codes_C[after] == _MINUS and after - at < 3:
                after += 1
            hit = after < end and classes[codes_C[after]] & LETTER
        if hit:
            cuts[at] = 1
            cuts[after] = 1
        at = after


@jit
def repeated_ngrams(hashes_W: U64, lengths_W: I32, tops: I32, spans: I32, found: I32) -> None:
    """Fill found with characters: first in the commonest n-gram of each length in tops, times how often it occurs
    (the first of equals; spaces between its words count); then in n-grams of each length in spans that occurred
    before, counted so that none overlap."""
    size = len(hashes_W)
    room = 16
    while room < 2 * size:
        room *= 2
    keys, stamps = np.empty(room, np.uint64), np.zeros(room, np.int32)
    counts, slots = np.empty(room, np.int32), np.empty(size, np.int32)
    grams, chars, known = hashes_W.copy(), lengths_W.copy(), 1
    for place in range(len(tops) + len(spans)):
        n = tops[place] if place < len(tops) else spans[place - len(tops)]
        if n > size:
            break
        while known < n:
            for at in range(size - known):
                grams[at] = grams[at] * _M + hashes_W[at + known]
                chars[at] += lengths_W[at + known]
            known += 1
        if place < len(tops):
            found[place] = _top(grams, chars, n, size - n + 1, (keys, stamps, counts, slots), place + 1)
        else:
            found[place] = _duplicated(grams, chars, n, size - n + 1, (keys, stamps), place + 1)
            if found[place] == 0:
                break  # no n-gram twice: no longer one either


@jit
def _slot(gram: np.uint64, keys: U64, stamps: I32, stamp: int) -> int:
    """Return the gram's place in the table: taken by it (its stamp is set) or free."""
    mask = len(keys) - 1
    slot = np.int64((gram * _A) >> _S32) & mask
    while stamps[slot] == stamp and keys[slot] != gram:
        slot = (slot + 1) & mask
    return int(slot)


@jit
def _top(grams: U64, chars: I32, n: int, num_grams: int, table: tuple[U64, I32, I32, I32], stamp: int) -> int:
    keys, stamps, counts, slots = table
    for at in range(num_grams):
        slot = _slot(grams[at], keys, stamps, stamp)
        if stamps[slot] != stamp:
            stamps[slot], keys[slot], counts[slot] = stamp, grams[at], 0
        counts[slot] += 1
        slots[at] = slot
    best = size = 0
    for at in range(num_grams):
        if counts[slots[at]] > best:
            best, size = counts[slots[at]], chars[at] + n - 1
    return int(best * size)


@jit
def _duplicated(grams: U64, chars: I32, n: int, num_grams: int, table: tuple[U64, I32], stamp: int) -> int:
    keys, stamps = table
    at = total = 0
    while at < num_grams:
        slot = _slot(grams[at], keys, stamps, stamp)
        if stamps[slot] == stamp:
            total += chars[at]
            at += n
        else:
            stamps[slot], keys[slot] = stamp, grams[at]
            at += 1
    return total
