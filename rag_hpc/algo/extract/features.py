"""Features of the text blocks of a scanned page. Shapes: B blocks, N nodes, F features.

All are counts, shares and bits, compared with thresholds only: no scale, no logarithm. Text and link density after
Kohlschuetter 2010 (boilerpipe), the container's score after Arc90's readability.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.html_lex import is_letter, lookup
from rag_hpc.algo.extract.html_page import (
    CHARS,
    CLASS,
    END,
    FIRST,
    INHERITED,
    LAST,
    LINK_CHARS,
    LINKS,
    MASK,
    NODE,
    PARENT,
    PUNCT,
    SEM,
    START,
    TAG,
    WORDS,
    Page,
)
from rag_hpc.algo.jit import jit_inlined

_KIND_NAMES = ["other", "p", "li", "h1", "h2", "h3", "h4", "cell", "box", "blockquote", "pre", "dd", "caption"]
_KIND = {
    "p": 1,
    "li": 2,
    "h1": 3,
    "h2": 4,
    "h3": 5,
    "h4": 6,
    "h5": 6,
    "h6": 6,
    "td": 7,
    "th": 7,
    "div": 8,
    "section": 8,
    "article": 8,
    "center": 8,
    "blockquote": 9,
    "pre": 10,
    "dd": 11,
    "dt": 11,
    "figcaption": 12,
    "caption": 12,
}
_KINDS = np.array([_KIND.get(tag, 0) for tag in names.TAGS], np.int64)  # by tag code
_P, _H1, _H4, _CELL, _BOX = 1, 3, 6, 7, 8
_CUE_KEYS, _CUE_BITS = names.cue_table()
_CUE_BYTES = 48  # of a block's text that are searched for cues

NUM_LEVELS = 4  # a block's element and its ancestors
_TEXT = ["chars", "links_share", "words", "word_length", "punct", "ends", "upper", "links", "digits", "seen", "again"]
_TREE = [f"{name}_{level}" for level in range(NUM_LEVELS) for name in ("chars", "links_share", "prose", "blocks")]
_PLACE = [
    "up",
    "down",
    "in_half",
    "in_most",
    "in_best",
    "prose_before",
    "since_prose",
    "till_prose",
    "before",
    "h1_before",
    "page_prose",
    "page_num_prose",
]
_ALIKE = ["alike_num", "alike_chars", "alike_links", "alike_prose"]
_OFFSETS = (-2, -1, 1, 2)
_NEAR = [f"{name}_{at:+d}" for at in _OFFSETS for name in ("chars", "links_share", "punct", "heading", "sibling", "p")]
NAMES = [
    *(f"is_{kind}" for kind in _KIND_NAMES),
    *(f"{where}_{tag}" for where in ("inside", "below") for tag in names.SEMANTIC),
    *(f"{where}_{group}" for where in ("inherited", "branch", "own") for group in names.GROUPS),
    *(f"cue_{cue}" for cue in names.CUES),
    *_TEXT,
    *_TREE,
    *_PLACE,
    *_ALIKE,
    *_NEAR,
]
_NUM_SEM, _NUM_GROUPS, _NUM_CUES = len(names.SEMANTIC), len(names.GROUPS), len(names.CUES)
_AT_SEM = len(_KIND_NAMES)
_AT_GROUPS = _AT_SEM + 2 * _NUM_SEM
_AT_CUES = _AT_GROUPS + 3 * _NUM_GROUPS
_AT_TEXT = _AT_CUES + _NUM_CUES
_AT_TREE = _AT_TEXT + len(_TEXT)
_AT_PLACE = _AT_TREE + len(_TREE)
_AT_ALIKE = _AT_PLACE + len(_PLACE)
_AT_NEAR = _AT_ALIKE + len(_ALIKE)
NUM_FEATURES = len(NAMES)
GROUP_COLUMNS = np.arange(_AT_GROUPS, _AT_CUES).reshape(3, _NUM_GROUPS)  # inherited, branch, own
_FAR = 1000.0
_FNV0, _FNV = np.uint64(names.FNV_START), np.uint64(names.FNV_PRIME)


def block_features(page: Page) -> Any:
    """Return the features of a page's blocks, float32 of shape (B, F) in the order of NAMES."""
    return _features(page.out, page.nodes, page.blocks)


@jit_inlined
def _features(out: Any, nodes_N: Any, blocks_B: Any) -> Any:
    x_BF = np.zeros((blocks_B.shape[0], NUM_FEATURES), np.float32)
    sums_N4 = _sums(nodes_N, blocks_B)
    chain_N = chain(nodes_N, _best_container(nodes_N, blocks_B, sums_N4))
    half, most = _majority(sums_N4, 0.5), _majority(sums_N4, 0.8)
    _fill_seen(out, blocks_B, x_BF)
    _fill_alike(nodes_N, blocks_B, x_BF)
    _fill_order(nodes_N, blocks_B, sums_N4, x_BF)
    for i in range(blocks_B.shape[0]):
        _fill_names(nodes_N, blocks_B[i, NODE], chain_N, x_BF[i])
        _fill_text(out, blocks_B[i], x_BF[i])
        _fill_tree(nodes_N, blocks_B[i, NODE], sums_N4, x_BF[i])
        _fill_place(nodes_N, blocks_B[i, NODE], chain_N, half, most, x_BF[i])
        _fill_near(nodes_N, blocks_B, i, x_BF[i])
    return x_BF


@jit_inlined
def is_prose(block: Any) -> Any:
    """Return whether a block looks like a sentence or more."""
    return block[CHARS] >= 60 and block[LINK_CHARS] * 3 < block[CHARS] and block[PUNCT] > 0


@jit_inlined
def _sums(nodes_N: Any, blocks_B: Any) -> Any:
    """Return characters, characters in links, characters of prose and blocks under each node."""
    sums_N4 = np.zeros((nodes_N.shape[0], 4), np.float64)
    for i in range(blocks_B.shape[0]):
        block, node = blocks_B[i], blocks_B[i, NODE]
        sums_N4[node, 0] += block[CHARS]
        sums_N4[node, 1] += block[LINK_CHARS]
        sums_N4[node, 2] += block[CHARS] if is_prose(block) else 0
        sums_N4[node, 3] += 1
    for node in range(nodes_N.shape[0] - 1, 0, -1):
        for k in range(4):
            sums_N4[nodes_N[node, PARENT], k] += sums_N4[node, k]
    return sums_N4


@jit_inlined
def _best_container(nodes_N: Any, blocks_B: Any, sums_N4: Any) -> Any:
    """Return the node with the most prose right below it, by readability's score."""
    score_N = np.zeros(nodes_N.shape[0], np.float64)
    for i in range(blocks_B.shape[0]):
        block, node = blocks_B[i], blocks_B[i, NODE]
        if is_prose(block):
            points = 1 + block[PUNCT] + min(block[CHARS] / 100.0, 3.0)
            points *= 1 - block[LINK_CHARS] / block[CHARS]
            kind = _KINDS[nodes_N[node, TAG]]
            if kind != 0 and kind != _CELL and kind != _BOX:
                node = nodes_N[node, PARENT]
            score_N[node] += points
            score_N[nodes_N[node, PARENT]] += points / 2
    best, top = 0, 0.0
    for node in range(nodes_N.shape[0]):
        score = score_N[node] * (1 - sums_N4[node, 1] / max(sums_N4[node, 0], 1.0))
        if score > top:
            best, top = node, score
    return best


@jit_inlined
def _majority(sums_N4: Any, share: Any) -> Any:
    """Return the innermost node that holds the given share of the page's prose."""
    found = 0
    for node in range(sums_N4.shape[0]):
        if sums_N4[node, 2] >= share * sums_N4[0, 2]:
            found = node
    return found


@jit_inlined
def chain(nodes_N: Any, best: Any) -> Any:
    """Return for each node how far above `best` it is, -1 where it is not on the way to the root."""
    chain_N = np.full(nodes_N.shape[0], -1, np.int64)
    level = 0
    while True:
        chain_N[best] = level
        if best == 0:
            return chain_N
        best = nodes_N[best, PARENT]
        level += 1


@jit_inlined
def signatures(nodes_N: Any, blocks_B: Any) -> Any:
    """Return a number for each block that is equal for equal tags and classes of its element and the one around."""
    found = np.empty(blocks_B.shape[0], np.int64)
    for i in range(blocks_B.shape[0]):
        node = blocks_B[i, NODE]
        around = nodes_N[node, PARENT]
        found[i] = (nodes_N[node, TAG] * 131 + nodes_N[around, TAG]) * 1000003 + nodes_N[node, CLASS]
        found[i] = found[i] * 1000003 + nodes_N[around, CLASS]
    return found


@jit_inlined
def _fill_seen(out: Any, blocks_B: Any, x_BF: Any) -> None:
    """How often the same text stood before, and comes again."""
    num = blocks_B.shape[0]
    hashes = np.empty(num, np.uint64)
    for i in range(num):
        value = _FNV0
        for at in range(blocks_B[i, START], blocks_B[i, END]):
            value = (value ^ np.uint64(out[at])) * _FNV
        hashes[i] = value
    order, begin = np.argsort(hashes, kind="mergesort"), 0
    for k in range(1, num + 1):
        if k == num or hashes[order[k]] != hashes[order[begin]]:
            for j in range(begin, k):
                x_BF[order[j], _AT_TEXT + 9] = j - begin
                x_BF[order[j], _AT_TEXT + 10] = k - 1 - j
            begin = k


@jit_inlined
def _fill_alike(nodes_N: Any, blocks_B: Any, x_BF: Any) -> None:
    """What the blocks of the same signature are like: number, mean length, share of links and of prose."""
    num, same = blocks_B.shape[0], signatures(nodes_N, blocks_B)
    order, begin = np.argsort(same, kind="mergesort"), 0
    for k in range(1, num + 1):
        if k == num or same[order[k]] != same[order[begin]]:
            chars = links = prose = 0.0
            for j in range(begin, k):
                chars += blocks_B[order[j], CHARS]
                links += blocks_B[order[j], LINK_CHARS]
                prose += is_prose(blocks_B[order[j]])
            for j in range(begin, k):
                x = x_BF[order[j]]
                x[_AT_ALIKE], x[_AT_ALIKE + 1] = k - begin, chars / (k - begin)
                x[_AT_ALIKE + 2], x[_AT_ALIKE + 3] = links / chars, prose / (k - begin)
            begin = k


@jit_inlined
def _fill_order(nodes_N: Any, blocks_B: Any, sums_N4: Any, x_BF: Any) -> None:
    """How much of the page, of its prose and of its h1 stands before; the distance to prose on both sides."""
    prose, text, num = max(sums_N4[0, 2], 1.0), max(sums_N4[0, 0], 1.0), blocks_B.shape[0]
    prose_before = before = h1_before = num_prose = 0.0
    since = till = _FAR
    for i in range(num):
        x, block = x_BF[i], blocks_B[i]
        x[_AT_PLACE + 5], x[_AT_PLACE + 6] = prose_before / prose, since
        x[_AT_PLACE + 8], x[_AT_PLACE + 9] = before / text, h1_before
        since += 1
        if is_prose(block):
            prose_before += block[CHARS]
            num_prose += 1
            since = 0.0
        before += block[CHARS]
        h1_before += _KINDS[nodes_N[block[NODE], TAG]] == _H1
    for i in range(num - 1, -1, -1):
        x_BF[i, _AT_PLACE + 7] = till
        x_BF[i, _AT_PLACE + 10], x_BF[i, _AT_PLACE + 11] = prose, num_prose
        till = 0.0 if is_prose(blocks_B[i]) else till + 1


@jit_inlined
def _fill_names(nodes_N: Any, node: Any, chain_N: Any, x: Any) -> None:
    """Tags and words of class names: of all ancestors, of those below the way to the container, of the nearest two."""
    x[_KINDS[nodes_N[node, TAG]]] = 1
    branch, meet = 0, node
    while chain_N[meet] < 0:
        branch |= nodes_N[meet, MASK]
        meet = nodes_N[meet, PARENT]
    inside = nodes_N[node, SEM]
    below = inside & ~nodes_N[meet, SEM]
    for k in range(_NUM_SEM):
        x[_AT_SEM + k] = (inside >> k) & 1
        x[_AT_SEM + _NUM_SEM + k] = (below >> k) & 1
    inherited, own = nodes_N[node, INHERITED], nodes_N[node, MASK] | nodes_N[nodes_N[node, PARENT], MASK]
    for k in range(_NUM_GROUPS):
        x[_AT_GROUPS + k] = (inherited >> k) & 1
        x[_AT_GROUPS + _NUM_GROUPS + k] = (branch >> k) & 1
        x[_AT_GROUPS + 2 * _NUM_GROUPS + k] = (own >> k) & 1


@jit_inlined
def _fill_text(out: Any, block: Any, x: Any) -> None:
    chars, last, t = block[CHARS], block[LAST], _AT_TEXT
    x[t], x[t + 1], x[t + 2] = chars, block[LINK_CHARS] / chars, block[WORDS]
    x[t + 3], x[t + 4] = chars / max(block[WORDS], 1), block[PUNCT] / (chars + 10.0)
    x[t + 5] = last == 46 or last == 33 or last == 63 or last == 34 or last == 0x9D or last == 0x82  # . ! ? " ” 。
    x[t + 6], x[t + 7] = 65 <= block[FIRST] <= 90, block[LINKS]
    begin, end = block[START], min(block[END], block[START] + _CUE_BYTES)
    cues, digits, length, value = 0, 0, 0, _FNV0
    for i in range(begin, end + 1):
        c = out[i] if i < end else 32
        if is_letter(c):
            value = (value ^ np.uint64(c | 32)) * _FNV
            length += 1
        else:
            cues |= lookup(_CUE_KEYS, _CUE_BITS, value) if length else 0
            value, length = _FNV0, 0
            digits += 48 <= c <= 57
    x[t + 8] = digits / (end - begin)
    for k in range(_NUM_CUES):
        x[_AT_CUES + k] = (cues >> k) & 1


@jit_inlined
def _fill_tree(nodes_N: Any, node: Any, sums_N4: Any, x: Any) -> None:
    prose = max(sums_N4[0, 2], 1.0)
    for level in range(NUM_LEVELS):
        t = _AT_TREE + 4 * level
        x[t], x[t + 1] = sums_N4[node, 0], sums_N4[node, 1] / max(sums_N4[node, 0], 1.0)
        x[t + 2], x[t + 3] = sums_N4[node, 2] / prose, sums_N4[node, 3]
        node = nodes_N[node, PARENT]


@jit_inlined
def _fill_place(nodes_N: Any, node: Any, chain_N: Any, half: Any, most: Any, x: Any) -> None:
    """Steps up to the way from the best container to the root and from there down to it; whether it is inside."""
    up, t = 0, _AT_PLACE
    while chain_N[node] < 0:
        x[t + 2] += node == half
        x[t + 3] += node == most
        node = nodes_N[node, PARENT]
        up += 1
    x[t], x[t + 1], x[t + 4] = up, chain_N[node], chain_N[node] == 0
    while True:
        x[t + 2] += node == half
        x[t + 3] += node == most
        if node == 0:
            return
        node = nodes_N[node, PARENT]


@jit_inlined
def _fill_near(nodes_N: Any, blocks_B: Any, i: Any, x: Any) -> None:
    around = nodes_N[blocks_B[i, NODE], PARENT]
    for k in range(4):
        at = i + (k - 2 if k < 2 else k - 1)
        if 0 <= at < blocks_B.shape[0]:
            block, t = blocks_B[at], _AT_NEAR + 6 * k
            kind = _KINDS[nodes_N[block[NODE], TAG]]
            x[t], x[t + 1] = block[CHARS], block[LINK_CHARS] / block[CHARS]
            x[t + 2], x[t + 3] = block[PUNCT] / (block[CHARS] + 10.0), _H1 <= kind <= _H4
            x[t + 4], x[t + 5] = nodes_N[block[NODE], PARENT] == around, kind == _P
