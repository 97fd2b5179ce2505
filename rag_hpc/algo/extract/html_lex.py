"""The words of HTML: tags, attributes, comments and raw text, in bytes. Each function takes a place and returns one."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.jit import jit_inlined

_FNV0, _FNV = np.uint64(names.FNV_START), np.uint64(names.FNV_PRIME)
_H_MAIN, _H_NONE, _H_DISPLAY, _H_TRUE, _H_HIDDEN, _H_VISIBILITY = (
    np.uint64(names.name_hash(word)) for word in ["main", "none", "display", "true", "hidden", "visibility"]
)
_PANEL = names.PANEL
_TWIN = np.frombuffer(b'</span><span class="katex-html"', np.uint8)
_SPAN_END = 7  # bytes of </span>
_MAX_TWIN = 1 << 16  # bytes


@jit_inlined
def is_letter(c: Any) -> Any:
    """Return whether a byte is an ASCII letter."""
    return 97 <= (c | 32) <= 122


@jit_inlined
def is_space(c: Any) -> Any:
    """Return whether a byte is white space."""
    return c == 32 or 9 <= c <= 13


@jit_inlined
def lookup(keys: Any, values: Any, key: Any) -> Any:
    """Return the value of a key in a table of html_names, 0 where there is none."""
    last = keys.size - 1
    place = np.int64(key & np.uint64(last))
    while keys[place] != 0:
        if keys[place] == key:
            return values[place]
        place = (place + 1) & last
    return np.int64(0)


@jit_inlined
def comment_end(src: Any, i: Any) -> Any:
    """Return the place after a comment, a doctype or a processing instruction."""
    n = src.size
    if i + 3 < n and src[i + 1] == 33 and src[i + 2] == 45 and src[i + 3] == 45:
        i += 4
        if i < n and src[i] == 62:
            return i + 1
        if i + 1 < n and src[i] == 45 and src[i + 1] == 62:
            return i + 2
        while i + 2 < n:
            if src[i + 1] == 45 and src[i] == 45:
                if src[i + 2] == 62:
                    return i + 3
                if src[i + 2] == 33 and i + 3 < n and src[i + 3] == 62:
                    return i + 4
            i += 1
        return n
    while i < n and src[i] != 62:
        i += 1
    return i + 1


@jit_inlined
def no_break_space(src: Any, i: Any) -> Any:
    """Return the length of a no-break space written as an entity at i, 0 if there is none."""
    if i + 5 >= src.size:
        return 0
    if src[i + 1] == 110 and src[i + 2] == 98 and src[i + 3] == 115 and src[i + 4] == 112:  # nbsp
        return 6 if src[i + 5] == 59 else 5
    if src[i + 1] == 35 and src[i + 2] == 49 and src[i + 3] == 54 and src[i + 4] == 48 and src[i + 5] == 59:  # #160;
        return 6
    return 0


@jit_inlined
def tag_name(src: Any, i: Any) -> Any:
    """Return the end and the hash of the tag name at i."""
    n, h = src.size, _FNV0
    while i < n and not (src[i] == 62 or src[i] == 47 or is_space(src[i])):
        c = src[i]
        if 65 <= c <= 90:
            c |= 32
        h = (h ^ np.uint64(c)) * _FNV
        i += 1
    return i, h


@jit_inlined
def tag_end(src: Any, i: Any) -> Any:
    """Return the place after the tag whose attributes start at i, without reading them."""
    n, after_equals = src.size, False
    while i < n:
        c = src[i]
        i += 1
        if c == 62:
            return i
        if after_equals and (c == 34 or c == 39):
            while i < n and src[i] != c:
                i += 1
            i += 1
            after_equals = False
        elif not is_space(c):
            after_equals = c == 61
    return n


@jit_inlined
def twin_end(src: Any, i: Any) -> Any:
    """Return the place after the second copy of a formula, drawn with spans as KaTeX does, whose math ended at i.

    i if there is none, -1 if it does not end soon.
    """
    if i + _TWIN.size > src.size:
        return i
    for k in range(_TWIN.size):
        if src[i + k] != _TWIN[k]:
            return i
    i += _SPAN_END
    depth, stop = 0, min(i + _MAX_TWIN, src.size - 6)
    while i < stop:
        if src[i] == 60:
            closing = 1 if src[i + 1] == 47 else 0
            if src[i + closing + 1] == 115 and src[i + closing + 2] == 112 and src[i + closing + 3] == 97:  # spa
                depth += 1 - 2 * closing
                if depth == 0:
                    return i
        i += 1
    return -1


@jit_inlined
def mentions_json(src: Any, i: Any, end: Any) -> Any:
    """Return whether src[i:end] holds the letters json, in any case."""
    for at in range(i, end - 3):
        if src[at] | 32 == 106 and src[at + 1] | 32 == 115 and src[at + 2] | 32 == 111 and src[at + 3] | 32 == 110:
            return True
    return False


@jit_inlined
def attribute_value(src: Any, i: Any) -> Any:
    """Return begin and end of an attribute's value, and the place after it."""
    n = src.size
    while i < n and is_space(src[i]):
        i += 1
    if i < n and (src[i] == 34 or src[i] == 39):
        quote, begin = src[i], i + 1
        i = begin
        while i < n and src[i] != quote:
            i += 1
        return begin, i, i + 1
    begin = i
    while i < n and src[i] != 62 and not is_space(src[i]):
        i += 1
    return begin, i, i


@jit_inlined
def class_words(src: Any, i: Any, end: Any, known: Any) -> Any:
    """Return the groups of the words in src[i:end], whether one is `main`, whether they say display:none or true, and
    whether they name what is shown on a click: a panel of tabs, or what a search in the page may open.

    Words end at case changes and at what is no letter; the words between two spaces, joined, are one more.
    """
    mask, main, none = np.int64(0), False, False
    h, whole, length, before, lower, every = _FNV0, _FNV0, 0, np.uint64(0), False, np.int64(7)
    while i <= end:
        c = src[i] if i < end else 32
        i += 1
        letter = is_letter(c)
        if length and (not letter or (lower and c <= 90)):
            mask |= lookup(known.word_keys, known.word_bits, h)
            main = main or h == _H_MAIN
            none = none or h == _H_TRUE or (h == _H_NONE and before == _H_DISPLAY)
            none = none or (h == _H_HIDDEN and before == _H_VISIBILITY)
            before, h, length = h, _FNV0, 0
        if letter:
            lower = c > 90
            h = (h ^ np.uint64(c | 32)) * _FNV
            whole = (whole ^ np.uint64(c | 32)) * _FNV
            length += 1
        elif is_space(c):
            mask |= lookup(known.word_keys, known.word_bits, whole)
            every = (every ^ np.int64(whole >> np.uint64(33))) * 31
            whole = _FNV0
    return mask & ~_PANEL, main, none, mask & _PANEL != 0, every & 0x7FFFFFFF


@jit_inlined
def blank(src: Any, i: Any) -> Any:
    """Return how many bytes at i are white space or invisible (0: none), and whether they are white space."""
    c, n = src[i], src.size
    if c <= 32:
        return 1, is_space(c)
    if c == 38:
        return no_break_space(src, i), True
    if c == 0xC2 and i + 1 < n and (src[i + 1] == 0xA0 or src[i + 1] == 0xAD):  # no-break space, soft hyphen
        return 2, src[i + 1] == 0xA0
    if c == 0xE2 and i + 2 < n and src[i + 1] == 0x80 and src[i + 2] == 0x8B:  # zero-width space
        return 3, False
    return (1 if c == 127 else 0), False


@jit_inlined
def visible(src: Any, i: Any) -> Any:
    """Return how much the byte at i adds to a text's length, and whether it is punctuation.

    A CJK character says as much as three letters.
    """
    c = src[i]
    if c < 0x80:
        return 1, c == 44 or c == 46 or c == 33 or c == 63 or c == 59
    if c < 0xC0:
        return 0, False
    wide = (c == 0xEF or c == 0xE3) and i + 2 < src.size
    return (3 if 0xE3 <= c <= 0xED else 1), wide and (src[i + 1] == 0xBC or (src[i + 1] == 0x80 and src[i + 2] <= 0x82))
