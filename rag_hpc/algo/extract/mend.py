"""What the estimates of single blocks leave out and let in, mended by where the blocks around them were put.

Each rule was kept because it lost nothing on any labelled set with weights that never saw that set (DECISIONS.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.html_page import CHARS, LINK_CHARS, NODE, PARENT, SEM, TAG, Page

_BESIDE = 0.7  # an estimate by which a block of an aside, a navigation, a footer or a hidden part is believed
FEW_CHARS = 800  # of a short article, which needs its headline
_GAP = 2  # blocks in a row between two that are kept
_H1 = names.CODE["h1"]
_TAGS = np.array(names.TAGS)
_IS_TEXT = ~np.isin(_TAGS, [f"h{level}" for level in range(1, 7)])  # by tag code
_IS_CELL, _IS_ITEM = np.isin(_TAGS, ["td", "th"]), np.isin(_TAGS, ["li", "dt", "dd", "td", "th"])
APART = sum(1 << names.SEMANTIC.index(name) for name in ("nav", "footer", "aside", "hidden"))
_CLOSED = APART | 1 << names.SEMANTIC.index("form")


def mended(page: Page, p_B: Any, chosen: Any) -> Any:
    """Return the numbers of the blocks to keep, given those over the threshold, in order.

    Blocks beside the article have to be surer, unless they are most of what is kept. Items of a list or a table are
    kept if items before and after them are, and so are one or two paragraphs between two of the same parent. A short
    article keeps the h1 right before it.
    """
    blocks, nodes = page.blocks, page.nodes
    inside_B = nodes[blocks[:, NODE], SEM]
    sure = chosen[((inside_B[chosen] & APART) == 0) | (p_B[chosen] > _BESIDE)]
    if 2 * blocks[sure, CHARS].sum() > blocks[chosen, CHARS].sum():
        chosen = sure
    tag_B, around_B = nodes[blocks[:, NODE], TAG], nodes[blocks[:, NODE], PARENT]
    around_B = np.where(_IS_CELL[tag_B], nodes[around_B, PARENT], around_B)
    plain_B = (3 * blocks[:, LINK_CHARS] <= blocks[:, CHARS]) & ((inside_B & _CLOSED) == 0)
    item_B, text_B = _IS_ITEM[tag_B], _IS_TEXT[tag_B]
    kept_B = np.zeros(len(p_B), bool)
    kept_B[chosen] = True
    begins, ends = chosen[:-1], chosen[1:]
    apart = (ends - begins > 1) & (around_B[begins] == around_B[ends])
    for begin, end in zip(begins[apart].tolist(), ends[apart].tolist(), strict=True):
        inner = slice(begin + 1, end)
        may = item_B[inner] if end - begin - 1 > _GAP else text_B[inner]
        kept_B[inner] = plain_B[inner] & may & (around_B[inner] == around_B[begin])
    at = chosen[0] if len(chosen) else 0
    if at and tag_B[at - 1] == _H1 and around_B[at - 1] == around_B[at] and blocks[chosen, CHARS].sum() < FEW_CHARS:
        kept_B[at - 1] = True
    return np.flatnonzero(kept_B)
