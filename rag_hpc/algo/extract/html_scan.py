"""One pass over the bytes of an HTML page: its block elements and its runs of text, as arrays.

A tag-soup reading of the HTML standard's tree construction (https://html.spec.whatwg.org/#parsing, sec. 13.2): inline
elements are transparent, block elements nest with the standard's implied end tags, raw-text elements are jumped over.
Time and memory are linear in the input whatever the markup. Compiled by numba, kept in its cache.
"""

from __future__ import annotations

from typing import Any

import numba  # type: ignore[import-untyped]
import numpy as np
from numba.core import cgutils, types  # type: ignore[import-untyped]
from numba.extending import intrinsic  # type: ignore[import-untyped]

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.html_lex import (
    attribute_value,
    class_words,
    comment_end,
    is_letter,
    is_space,
    lookup,
    mentions_json,
    tag_end,
    tag_name,
    twin_end,
)
from rag_hpc.algo.extract.html_page import (
    A_CLASS,
    A_CLOSED,
    A_HREF,
    A_MASK,
    A_SEM,
    A_SHOWN,
    BEGIN,
    CELL,
    CLASS,
    DEPTH,
    ERROR,
    IN_LINK,
    IN_READING,
    INHERITED,
    ITEM,
    LINK_DEPTH,
    LISTS,
    LK,
    MASK,
    MAX_BLOCKS,
    MAX_DEPTH,
    MAX_MARKS,
    MAX_NODES,
    NO_TWIN,
    NOSCRIPT,
    NUM_BLOCK_COLUMNS,
    NUM_BLOCKS,
    NUM_MARKS,
    NUM_NODE_COLUMNS,
    NUM_NODES,
    OUT,
    PARENT,
    PRES,
    ROW,
    SEM,
    SKIPPED,
    SPACE,
    STATE_SIZE,
    TAG,
    TOO_DEEP,
    TOO_MANY,
    Page,
    Tables,
)
from rag_hpc.algo.extract.html_text import append_character, append_text, flush, line_break
from rag_hpc.algo.jit import jit_inlined

_TAG = names.CODE
_P, _LI, _UL, _OL, _TR, _TD, _TH, _TABLE, _PRE, _LISTING, _A, _BR, _SCRIPT = (
    _TAG[name] for name in ("p", "li", "ul", "ol", "tr", "td", "th", "table", "pre", "listing", "a", "br", "script")
)
_TEMPLATE, _SHADOW_ROOT, _NOSCRIPT = _TAG["template"], _TAG["shadowroot"], _TAG["noscript"]
_BLOCK, _RAW, _SKIP, _CLOSES_P, _SCOPE = names.BLOCK, names.RAW, names.SKIP, names.CLOSES_P, names.SCOPE
_PART, _HEADING, _BREAK, _LINK, _MARK = names.TABLE_PART, names.HEADING, names.BREAK, names.LINK, names.MARK
_GAP, _READING, _BASE = names.GAP, names.READING, names.BASE
_CLOSES, _STOPS = names.CLOSES, names.STOPS
_PERMALINK = names.GROUP_BIT["permalink"]
_SEM_HIDDEN, _SEM_MAIN = (1 << names.SEMANTIC.index(name) for name in ("hidden", "main"))
_FNV0, _FNV = np.uint64(names.FNV_START), np.uint64(names.FNV_PRIME)
_H_CLASS, _H_ID, _H_ROLE, _H_ITEMPROP, _H_HREF, _H_HIDDEN, _H_STYLE, _H_ARIA = (
    np.uint64(names.name_hash(name))
    for name in ("class", "id", "role", "itemprop", "href", "hidden", "style", "aria-hidden")
)
_H_MATH = np.uint64(names.name_hash("math"))
_H_SHADOW, _H_SHADOW_OLD = (np.uint64(names.name_hash(name)) for name in ("shadowrootmode", "shadowroot"))
_LESS = 60  # <
_MAX_STYLE = 1000  # bytes of a style that are read


def scan(source: bytes, known: Tables) -> Page:
    """Return the page's text, nodes and blocks, arrays cut to size; state[ERROR] says TOO_DEEP or TOO_MANY.

    source: HTML in UTF-8. Text has its entities still.
    """
    src = np.frombuffer(source, np.uint8)
    num = min(int(np.count_nonzero(src == _LESS)), MAX_NODES) + 2
    page = Page(
        np.empty(len(source) + 16, np.uint8),
        np.empty((num, NUM_NODE_COLUMNS), np.int32),
        np.empty((min(2 * num, MAX_BLOCKS + 2), NUM_BLOCK_COLUMNS), np.int32),
        np.empty((MAX_MARKS, 3), np.int64),
        np.zeros(MAX_DEPTH + 1, np.int64),
        np.zeros(len(names.TAGS), np.int64),
        np.zeros(STATE_SIZE, np.int64),
    )
    _scan(src, known, page)
    state = page.state
    return page._replace(
        out=page.out[: state[OUT]],
        nodes=page.nodes[: state[NUM_NODES]],
        blocks=page.blocks[: state[NUM_BLOCKS]],
        marks=page.marks[: state[NUM_MARKS]],
    )


def tables() -> Tables:
    """Return the tables of html_names as arrays."""
    kinds = np.array([0, *names.KINDS.values()], np.int64)
    sem = np.array([1 << names.SEMANTIC.index(n) if n in names.SEMANTIC else 0 for n in names.TAGS], np.int64)
    sem[_TH] = sem[_TD]
    return Tables(*names.tag_table(), *names.word_table(), kinds, sem, names.implied_table())


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    """Return an integer as a pointer."""

    def convert(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), convert


@jit_inlined
def _view(array: Any) -> Any:
    return numba.carray(_pointer(array.ctypes.data), array.shape, array.dtype)


@jit_inlined
def _scan(src: Any, known: Any, page: Any) -> None:
    """Run the loop over views that own nothing: counting references of arrays at each call took most of the time."""
    known = Tables(
        _view(known.tag_keys),
        _view(known.tag_codes),
        _view(known.word_keys),
        _view(known.word_bits),
        _view(known.kinds),
        _view(known.sem),
        _view(known.implied),
    )
    page = Page(
        _view(page.out),
        _view(page.nodes),
        _view(page.blocks),
        _view(page.marks),
        _view(page.stack),
        _view(page.opened),
        _view(page.state),
    )
    _loop(_view(src), known, page)


@jit_inlined
def _loop(src: Any, known: Any, page: Any) -> None:
    i, n, s = 0, src.size, page.state
    page.nodes[0, :] = 0
    s[NUM_NODES], s[DEPTH], s[BEGIN] = 1, 1, -1
    while i < n and s[ERROR] == 0:
        if src[i] != 60:
            i = append_text(src, i, page)
            continue
        c = src[i + 1] if i + 1 < n else 0
        if is_letter(c):
            i = _start_tag(src, i, known, page)
        elif c == 47 and i + 2 < n and is_letter(src[i + 2]):
            i = _end_tag(src, i, known, page)
        elif c == 33 or c == 63 or c == 47:
            i = comment_end(src, i)
        else:
            append_character(page, 60)
            i += 1
    while s[SKIPPED] > 0:
        _pop(page, known)
    flush(page)


@jit_inlined
def _start_tag(src: Any, i: Any, known: Any, page: Any) -> Any:
    _s, begin = page.state, i
    i, h = tag_name(src, i + 1)
    name_end = i
    tag = lookup(known.tag_keys, known.tag_codes, h)
    kind = known.kinds[tag]
    if kind & (_BLOCK | _LINK | _SKIP):
        i = _attributes(src, i, known, page)
        if kind & _LINK:
            _open_link(page)
        elif tag == _TEMPLATE and page.state[A_SHOWN]:
            _open(page, _SHADOW_ROOT, known.kinds[_SHADOW_ROOT], known)
        else:
            _open(page, tag, kind, known)
        return i
    i = tag_end(src, i)
    if kind & _RAW:
        end = _raw_end(src, i, begin + 1, name_end, tag, page)
        if tag == _NOSCRIPT:
            _s[NOSCRIPT] = max(_s[NOSCRIPT], end - i)
        if kind & _MARK and (tag != _SCRIPT or mentions_json(src, name_end, i)):
            _note(page, tag, i, end)
        return end
    if kind & _MARK:
        _note(page, tag, begin, i)
    elif kind & _BREAK:
        line_break(page, tag)
    elif kind & (_READING | _BASE):
        _s[IN_READING] = 1 if kind & _READING else 0
    return i


@jit_inlined
def _open_link(page: Any) -> None:
    s = page.state
    s[IN_LINK] = 2 if s[A_MASK] & _PERMALINK else s[A_HREF]
    s[LINK_DEPTH] = s[DEPTH]
    s[LK] += s[A_HREF]


@jit_inlined
def _note(page: Any, tag: Any, begin: Any, end: Any) -> None:
    """Note a tag with metadata; what svg and templates hold is about them, not about the page."""
    s = page.state
    if s[NUM_MARKS] < MAX_MARKS and s[SKIPPED] == 0:
        at = s[NUM_MARKS]
        page.marks[at, 0], page.marks[at, 1], page.marks[at, 2] = tag, begin, end
        s[NUM_MARKS] += 1


@jit_inlined
def _raw_end(src: Any, i: Any, name: Any, name_end: Any, tag: Any, page: Any) -> Any:
    """Return the place of the end tag of a raw-text element; without one a script runs to the end, others are empty."""
    n, width, begin = src.size, name_end - name, i
    if page.opened[tag] == 0:
        while i + width + 1 < n:
            if src[i] == 60 and src[i + 1] == 47 and not is_letter(src[min(i + 2 + width, n - 1)]):
                same = True
                for k in range(width):
                    if (src[i + 2 + k] | 32) != (src[name + k] | 32):
                        same = False
                        break
                if same:
                    return i
            i += 1
        page.opened[tag] = -1
    return n if tag == _SCRIPT else begin


@jit_inlined
def _attributes(src: Any, i: Any, known: Any, page: Any) -> Any:
    """Read the attributes of a tag into the state; return the place after it."""
    n, s = src.size, page.state
    s[A_MASK], s[A_SEM], s[A_HREF], s[A_CLOSED], s[A_CLASS], s[A_SHOWN] = 0, 0, 0, 0, 0, 0
    while i < n:
        c = src[i]
        if c == 62:
            return i + 1
        if c == 47 or is_space(c):
            s[A_CLOSED] = 1 if c == 47 else s[A_CLOSED]
            i += 1
            continue
        s[A_CLOSED] = 0
        h = _FNV0
        while i < n:
            h = (h ^ np.uint64(c | 32 if 65 <= c <= 90 else c)) * _FNV
            i += 1
            c = src[i] if i < n else 62
            if c == 61 or c == 62 or c == 47 or is_space(c):
                break
        while i < n and is_space(src[i]):
            i += 1
        begin = end = i
        if i < n and src[i] == 61:
            begin, end, i = attribute_value(src, i + 1)
        _attribute(src, h, begin, end, known, page)
    return n


@jit_inlined
def _attribute(src: Any, h: Any, begin: Any, end: Any, known: Any, page: Any) -> None:
    s = page.state
    if h in (_H_CLASS, _H_ID, _H_ITEMPROP):
        mask, _, _, panel, whole = class_words(src, begin, end, known)
        s[A_MASK] |= mask
        if h == _H_CLASS:
            s[A_CLASS] = whole
            s[A_SHOWN] |= panel
    elif h == _H_ROLE:
        mask, main, _, panel, _ = class_words(src, begin, end, known)
        s[A_MASK] |= mask
        s[A_SEM] |= _SEM_MAIN if main else 0
        s[A_SHOWN] |= panel
    elif h == _H_HREF:
        s[A_HREF] = 1
    elif h == _H_HIDDEN:
        s[A_SEM] |= _SEM_HIDDEN
        s[A_SHOWN] |= class_words(src, begin, end, known)[3]  # until-found
    elif h in (_H_SHADOW, _H_SHADOW_OLD):
        s[A_SHOWN] = 1
    elif h in (_H_STYLE, _H_ARIA):
        hides = class_words(src, begin, min(end, begin + _MAX_STYLE), known)[2]
        s[A_SEM] |= _SEM_HIDDEN if hides else 0


@jit_inlined
def _open(page: Any, tag: Any, kind: Any, known: Any) -> None:
    """Push a block or skipped element, after the end tags that it implies."""
    s = page.state
    if kind & _BLOCK:
        flush(page)
        _imply(page, tag, kind, known)
    elif kind & _GAP and s[SPACE] == 0 and s[BEGIN] >= 0:
        s[SPACE] = 1
    if kind & _SKIP and s[A_CLOSED]:
        return
    if s[DEPTH] >= MAX_DEPTH or s[NUM_NODES] >= page.nodes.shape[0]:
        s[ERROR] = TOO_DEEP if s[DEPTH] >= MAX_DEPTH else TOO_MANY
        return
    at, nodes, up = s[NUM_NODES], page.nodes, page.stack[s[DEPTH] - 1]
    inside = tag != _TABLE
    nodes[at, PARENT], nodes[at, TAG], nodes[at, MASK], nodes[at, CLASS] = up, tag, s[A_MASK], s[A_CLASS]
    sem = s[A_SEM] & ~_SEM_HIDDEN if s[A_SHOWN] else s[A_SEM]
    nodes[at, INHERITED], nodes[at, SEM] = nodes[up, INHERITED] | s[A_MASK], nodes[up, SEM] | known.sem[tag] | sem
    nodes[at, CELL] = at if tag in (_TD, _TH) else nodes[up, CELL] if inside else 0
    nodes[at, ROW] = at if tag == _TR else nodes[up, ROW] if inside else 0
    nodes[at, ITEM] = at if tag == _LI else nodes[up, ITEM] if inside else 0
    nodes[at, LISTS] = nodes[up, LISTS] + (1 if tag in (_UL, _OL) else 0)
    page.stack[s[DEPTH]] = at
    page.opened[tag] += 1
    s[DEPTH] += 1
    s[NUM_NODES] += 1
    s[SKIPPED] += 1 if kind & _SKIP else 0
    s[PRES] += 1 if tag in (_PRE, _LISTING) else 0


@jit_inlined
def _imply(page: Any, tag: Any, kind: Any, known: Any) -> None:
    """Close what the start of this element closes: an open p, li, dt, dd, cell, row, table section or heading."""
    s = page.state
    if kind & _CLOSES_P:
        while _top(page) == _P:
            _pop(page, known)
    if kind & _HEADING and known.kinds[_top(page)] & _HEADING:
        _pop(page, known)
    at, target, verdict = s[DEPTH] - 1, 0, 0
    while at > 0 and not verdict & _STOPS:
        verdict = known.implied[tag, page.nodes[page.stack[at], TAG]]
        target = at if verdict & _CLOSES else target
        at -= 1
    if target > 0:
        while s[DEPTH] > target:
            _pop(page, known)


@jit_inlined
def _top(page: Any) -> Any:
    return page.nodes[page.stack[page.state[DEPTH] - 1], TAG]


@jit_inlined
def _pop(page: Any, known: Any) -> None:
    s = page.state
    s[DEPTH] -= 1
    tag = page.nodes[page.stack[s[DEPTH]], TAG]
    page.opened[tag] -= 1
    s[SKIPPED] -= 1 if known.kinds[tag] & _SKIP else 0
    s[PRES] -= 1 if tag in (_PRE, _LISTING) else 0
    if s[DEPTH] < s[LINK_DEPTH]:
        s[IN_LINK] = 0


@jit_inlined
def _end_tag(src: Any, i: Any, known: Any, page: Any) -> Any:
    s = page.state
    i, h = tag_name(src, i + 2)
    i = tag_end(src, i)
    if h == _H_MATH and s[NO_TWIN] == 0:
        end = twin_end(src, i)
        s[NO_TWIN] = end < 0
        return max(i, end)
    tag = lookup(known.tag_keys, known.tag_codes, h)
    if tag == _TEMPLATE and page.opened[tag] == 0:
        tag = _SHADOW_ROOT
    kind = known.kinds[tag]
    if tag == _A:
        s[IN_LINK] = 0
    elif tag == _BR:
        line_break(page, tag)
    elif kind & (_READING | _BASE):
        s[IN_READING] = 0
    elif kind & (_BLOCK | _SKIP):
        if kind & _BLOCK:
            flush(page)
        if page.opened[tag] > 0:
            _close(page, tag, kind, known)
        elif kind & _HEADING and known.kinds[_top(page)] & _HEADING:
            _pop(page, known)
    return i


@jit_inlined
def _close(page: Any, tag: Any, kind: Any, known: Any) -> None:
    """Pop up to and with the element that an end tag names, not out of a table's cell unless it names a table part."""
    s = page.state
    at = s[DEPTH] - 1
    while at > 0:
        other = page.nodes[page.stack[at], TAG]
        if other == tag:
            while s[DEPTH] > at:
                if known.kinds[_top(page)] & _BLOCK:  # the text before what was skipped and never closed
                    flush(page)
                _pop(page, known)
            return
        if known.kinds[other] & _SCOPE and (not kind & _PART or other == _TABLE):
            return
        at -= 1
