"""Main text of an HTML page by features of its text blocks: one pass over the bytes, then two rounds of boosted trees.

Blocks with their text and link density as in boilerpipe (Kohlschuetter 2010); the second round sees the first one's
estimates of the neighbours, as web2text's chain does (Vogels 2018). The weights come from eval/bench/extract/train.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.context import NUM_FEATURES as NUM_CONTEXT_FEATURES
from rag_hpc.algo.extract.context import context_features
from rag_hpc.algo.extract.decode import ExtractError, clean_text
from rag_hpc.algo.extract.entities import unescape
from rag_hpc.algo.extract.features import NUM_FEATURES, block_features, is_prose
from rag_hpc.algo.extract.html_page import (
    CELL,
    CHARS,
    END,
    ERROR,
    FLAGS,
    IN_PRE,
    ITEM,
    LINK_CHARS,
    LISTS,
    MAX_BLOCKS,
    MAX_DEPTH,
    MAX_NODES,
    NODE,
    ROW,
    SEM,
    START,
    TAG,
    TOO_DEEP,
    Page,
    Tables,
)
from rag_hpc.algo.extract.html_scan import scan, tables
from rag_hpc.algo.extract.mend import APART, FEW_CHARS, mended
from rag_hpc.algo.extract.trees import Trees, probability
from rag_hpc.algo.extract.weights import FIRST, SECOND
from rag_hpc.algo.text.edits import Heading

_THRESHOLD = 0.25
_MAX_CELL = 300  # characters up to which cells of a row share a line; layout tables hold more
_MIN_SHARE = 0.05  # of a page's text; estimates that keep less are no ground to throw the rest away
_SURE, _SURE_CHARS = 0.8, 250  # an estimate, and characters of prose with it, by which a short article is believed
_HINT = 0.2  # an estimate that tells a block from others, where none is over the threshold
_LEVELS = {names.CODE[f"h{level}"]: level for level in range(1, 7)}
_DD = names.CODE["dd"]
_MAIN = 1 << names.SEMANTIC.index("main")


def scan_page(source: bytes, url: str) -> Page:
    """Return the blocks of a page in UTF-8. Raises ExtractError: too-deep, too-many-elements."""
    page = scan(source, _tables())
    if page.state[ERROR] == TOO_DEEP:
        raise ExtractError("too-deep", url, f"elements are nested {MAX_DEPTH} deep or more")
    if page.state[ERROR]:
        raise ExtractError("too-many-elements", url, f"over {MAX_NODES:,} elements or {MAX_BLOCKS:,} blocks of text")
    return page


def main_text(page: Page, first: Trees = FIRST, second: Trees = SECOND) -> tuple[str, list[Heading]]:
    """Return the main text, and its headings as (start, level, title); an empty text when the page has none."""
    pieces = _pieces(page, _chosen(page, estimates(page, first, second)))
    text, headings = _joined(pieces)
    if clean_text(text) != text:  # rare: entities of invisible characters, text that is not in NFC
        cleaned = ((before, _one_line(clean_text(piece), level), level) for before, piece, level in pieces)
        text, headings = _joined([piece for piece in cleaned if piece[1].strip()])
    return text, headings


def block_headings(page: Page) -> list[tuple[int, str]]:
    """Return level and title of all headings of a page."""
    tags = page.nodes[page.blocks[:, NODE], TAG]
    rows = np.flatnonzero(np.isin(tags, list(_LEVELS)))
    titles = ((_LEVELS[int(tags[i])], page.out[page.blocks[i, START] : page.blocks[i, END]].tobytes()) for i in rows)
    return [(level, _one_line(clean_text(_unescaped(raw)), 1)) for level, raw in titles]


def estimates(page: Page, first: Trees, second: Trees) -> Any:
    """Return for each block the probability that it is main text."""
    x_FB = np.empty((NUM_FEATURES + NUM_CONTEXT_FEATURES, len(page.blocks)), np.float32)
    x_FB[:NUM_FEATURES] = block_features(page).T
    first_B = probability(first, x_FB[:NUM_FEATURES].T)
    x_FB[NUM_FEATURES:] = context_features(page, first_B).T
    return probability(second, x_FB.T)


@cache
def _tables() -> Tables:
    return tables()


def _chosen(page: Page, p_B: Any) -> Any:
    """Return the numbers of the blocks to keep.

    Little text that is less than half of the page's <main>, and no sure prose: an index or a table of links, kept as
    it is. Next to nothing of a page, and no sure prose (one unlike all that the estimates were made from): what is as
    likely as half of the likeliest, or, if that says nothing, all that is neither links nor marked as navigation,
    footer or hidden. A short article beside long furniture has sure prose.
    """
    chars_B, inside_B = page.blocks[:, CHARS], page.nodes[page.blocks[:, NODE], SEM]
    chosen_B = p_B > _THRESHOLD
    num_chars, total = chars_B[chosen_B].sum(), chars_B.sum()
    main_B = (inside_B & (_MAIN | APART)) == _MAIN
    if num_chars >= FEW_CHARS and num_chars >= _MIN_SHARE * total:
        return mended(page, p_B, np.flatnonzero(chosen_B))
    if chars_B[(p_B > _SURE) & _prose(page)].sum() >= _SURE_CHARS:
        return mended(page, p_B, np.flatnonzero(chosen_B))
    if num_chars < FEW_CHARS and 2 * chars_B[chosen_B & main_B].sum() < chars_B[main_B].sum():
        chosen_B |= main_B
    elif num_chars < _MIN_SHARE * total:
        likely_B = p_B > p_B.max() / 2
        says_little = total < FEW_CHARS or p_B.max() < _HINT or chars_B[likely_B].sum() < _MIN_SHARE * total
        plain_B = ((inside_B & APART) == 0) & (2 * page.blocks[:, LINK_CHARS] <= chars_B)
        chosen_B = plain_B if says_little else likely_B
    else:
        return mended(page, p_B, np.flatnonzero(chosen_B))
    return np.flatnonzero(chosen_B) if chosen_B.any() else np.arange(len(chars_B))


def _prose(page: Page) -> Any:
    """Return which blocks look like a sentence or more."""
    return np.array([is_prose(block) for block in page.blocks], bool)


def _pieces(page: Page, chosen: Any) -> list[tuple[str, str, int]]:
    """Return (what stands before it, text, heading level or 0) of the chosen blocks."""
    blocks, raw = page.blocks[chosen], page.out.tobytes()
    nodes = page.nodes[blocks[:, NODE]]
    pieces: list[tuple[str, str, int]] = []
    last = (0, 0, 0, 0, False)
    for (start, end, chars, flags), (tag, cell, row, item, lists) in zip(
        blocks[:, [START, END, CHARS, FLAGS]].tolist(), nodes[:, [TAG, CELL, ROW, ITEM, LISTS]].tolist(), strict=True
    ):
        text, level, code = _unescaped(raw[start:end]), _LEVELS.get(tag, 0), bool(flags & IN_PRE)
        flat = chars <= _MAX_CELL and not code and not level
        before = "\n\n"
        if row and flat and last[4] and last[1]:
            before = "\n" if row != last[1] else " | " if cell != last[0] else "\n"
        elif item and item != last[2] and not level:
            before = ("\n" if last[2] or last[3] else "\n\n") + "  " * (lists - 1) + "- "
        elif tag == _DD and not code:
            before = "\n"
        pieces.append((before, clean_text(text) if code else _one_line(text, level or (row and flat)), level))
        last = (cell, row, item, lists, flat)
    return pieces


def _joined(pieces: list[tuple[str, str, int]]) -> tuple[str, list[Heading]]:
    parts: list[str] = []
    headings: list[Heading] = []
    at = 0
    for before, text, level in pieces:
        lead = before if parts else before.lstrip("\n |")
        parts += (lead, text)
        at += len(lead)
        if level:
            headings.append((at, level, text))
        at += len(text)
    return "".join(parts), headings


def _one_line(text: str, wanted: int) -> str:
    return " ".join(text.split()) if wanted else text


def _unescaped(raw: bytes) -> str:
    return unescape(raw.decode("utf-8", "replace"))
