"""Text of HTML: runs of it become blocks, with white space collapsed outside of <pre>."""

from __future__ import annotations

from typing import Any

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.html_lex import blank, is_space, visible
from rag_hpc.algo.extract.html_page import (
    BEGIN,
    CH,
    CHARS,
    DEPTH,
    END,
    ERROR,
    FIRST,
    FLAGS,
    FST,
    IN_LINK,
    IN_PRE,
    IN_READING,
    LAST,
    LCH,
    LINK_CHARS,
    LINKS,
    LK,
    NODE,
    NUM_BLOCKS,
    OUT,
    PRES,
    PU,
    PUNCT,
    SKIPPED,
    SOFT,
    SOFT_BREAK,
    SPACE,
    START,
    TOO_MANY,
    WD,
    WORDS,
)
from rag_hpc.algo.jit import jit_inlined

_BR = names.CODE["br"]


@jit_inlined
def append_text(src: Any, i: Any, page: Any) -> Any:
    """Append the text from i to the next `<`; return that place."""
    n, s, out = src.size, page.state, page.out
    if s[SKIPPED] + s[IN_READING] > 0 or s[IN_LINK] == 2:
        while i < n and src[i] != 60:
            i += 1
        return i
    if s[PRES] > 0:
        return _pre_text(src, i, page)
    o, space, begin = s[OUT], s[SPACE], s[BEGIN]
    ch = words = punct = 0
    while i < n and src[i] != 60:
        width, is_white = blank(src, i)
        if width:
            space = max(space, 1) if is_white else space
            i += width
            continue
        if begin < 0:
            begin, s[FST] = o, src[i]
            words += 1
        elif space > 0:
            out[o] = 32 if space == 1 else 10
            o += 1
            words += 1
        space, out[o] = 0, src[i]
        length, is_punct = visible(src, i)
        ch += length
        punct += is_punct
        o += 1
        i += 1
    s[OUT], s[SPACE], s[BEGIN] = o, space, begin
    s[CH] += ch
    s[WD] += words
    s[PU] += punct
    s[LCH] += ch * s[IN_LINK]
    return i


@jit_inlined
def _pre_text(src: Any, i: Any, page: Any) -> Any:
    """Append text as it stands; return the place of the next `<`."""
    n, s, out = src.size, page.state, page.out
    o, ch = s[OUT], 0
    if s[BEGIN] < 0 and i < n and src[i] != 60:
        s[BEGIN] = o
    while i < n and src[i] != 60:
        c = src[i]
        i += 1
        if c == 13:
            if i < n and src[i] == 10:
                continue
            c = 10
        if c < 32 and c != 10 and c != 9:
            continue
        out[o] = c
        o += 1
        if c > 32 and (c < 0x80 or c >= 0xC0):
            ch += 1
            if s[CH] + ch == 1:
                s[FST] = c
        elif c <= 32:
            s[WD] += 1
    s[OUT] = o
    s[CH] += ch
    s[LCH] += ch * s[IN_LINK]
    return i


@jit_inlined
def append_character(page: Any, c: Any) -> None:
    """Append one visible ASCII character to the open block."""
    s = page.state
    if s[SKIPPED] + s[IN_READING] > 0 or s[IN_LINK] == 2:
        return
    if s[BEGIN] < 0:
        s[BEGIN], s[FST] = s[OUT], c
    elif s[SPACE] > 0:
        page.out[s[OUT]] = 32 if s[SPACE] == 1 else 10
        s[OUT] += 1
    s[SPACE] = 0
    page.out[s[OUT]] = c
    s[OUT] += 1
    s[CH] += 1
    s[LCH] += s[IN_LINK]


@jit_inlined
def line_break(page: Any, tag: Any) -> None:
    """One break is a new line, two in a row (or a rule) end the block."""
    s = page.state
    if s[SKIPPED] > 0:
        return
    if s[PRES] > 0 and s[BEGIN] >= 0:
        page.out[s[OUT]] = 10
        s[OUT] += 1
    elif tag != _BR or s[SPACE] == 2:
        flush(page)
        s[SOFT] = 1
    elif s[BEGIN] >= 0:
        s[SPACE] = 2


@jit_inlined
def flush(page: Any) -> None:
    """End the open block and write its row, if it has any visible text; nothing inside a skipped element ends it."""
    s = page.state
    if s[SKIPPED] > 0:
        return
    s[IN_READING] = 0
    if s[BEGIN] >= 0:
        if s[CH] > 0:
            while s[OUT] > s[BEGIN] and is_space(page.out[s[OUT] - 1]):
                s[OUT] -= 1
            at, rows = s[NUM_BLOCKS], page.blocks
            rows[at, NODE], rows[at, START], rows[at, END] = page.stack[s[DEPTH] - 1], s[BEGIN], s[OUT]
            rows[at, CHARS], rows[at, LINK_CHARS], rows[at, WORDS], rows[at, PUNCT] = s[CH], s[LCH], s[WD], s[PU]
            rows[at, LINKS], rows[at, FIRST], rows[at, LAST] = s[LK], s[FST], page.out[s[OUT] - 1]
            rows[at, FLAGS] = (IN_PRE if s[PRES] > 0 else 0) | (SOFT_BREAK if s[SOFT] > 0 else 0)
            s[NUM_BLOCKS] += 1
            if s[NUM_BLOCKS] >= page.blocks.shape[0] - 1:
                s[ERROR] = TOO_MANY
        else:
            s[OUT] = s[BEGIN]
    s[BEGIN] = -1
    s[CH], s[LCH], s[WD], s[PU], s[SPACE], s[SOFT] = 0, 0, 0, 0, 0, 0
    s[LK] = 1 if s[IN_LINK] == 1 else 0
