"""Training pages made from training pages, so that what is learned depends less on what news sites have in common.

A page with most of its main text cut off (a short article beside long furniture), one with a run of its paragraphs as
short items (ingredients, tables, specifications), and each of those with some groups of class names unknown (other
languages, class names without meaning). Labels and folds are those of the page. Shapes: B blocks, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag_hpc.algo.extract import html_names as names
from rag_hpc.algo.extract.features import GROUP_COLUMNS, block_features
from rag_hpc.algo.extract.html_page import (
    CHARS,
    END,
    FIRST,
    LAST,
    LINK_CHARS,
    NODE,
    PUNCT,
    SEM,
    START,
    TAG,
    WORDS,
    Page,
)

_UNKNOWN = 0.4  # share of the groups of class names that a page does without
_LETTER_BYTES = 3  # at most, of a letter in UTF-8
_KINDS = {"li": ("ul", "li"), "td": ("table", "td"), "dd": ("dl",), "div": ()}
_DRAWN = ("li", "li", "td", "div", "dd")
_FROM = [names.CODE[tag] for tag in ("p", "div", "li", "td")]


@dataclass(frozen=True)
class Labelled:
    """A scanned page with the features, labels and weights of its blocks."""

    fold: int
    page: Page
    x_BF: Any
    y_B: Any
    weight_B: Any


def block_weights(words_B: Any, num_gold: int) -> Any:
    """Return what blocks of so many words weigh on a page with so many words of main text."""
    return 50 * np.minimum(words_B, 400) / max(num_gold, 100) + 0.05


def with_altered(pages: Sequence[Labelled]) -> list[Labelled]:
    """Return the pages and what is made of them; the same pages give the same."""
    rng = np.random.default_rng(1)
    found = list(pages)
    for page in pages:
        made = [page, *_shortened(page, rng), *_listed(page, rng)]
        found += [_without_names(one, rng) for one in made]
    return found


def _without_names(page: Labelled, rng: np.random.Generator) -> Labelled:
    x_BF = page.x_BF.copy()
    x_BF[:, GROUP_COLUMNS[:, rng.random(GROUP_COLUMNS.shape[1]) < _UNKNOWN].ravel()] = 0
    return replace(page, x_BF=x_BF)


def _shortened(page: Labelled, rng: np.random.Generator) -> list[Labelled]:
    """Return the page with one to seven blocks of its main text, mostly the first ones."""
    main = np.flatnonzero(page.y_B)
    if len(main) < 4 or len(main) == len(page.y_B):
        return []
    num = int(rng.integers(1, min(8, max(2, len(main) // 2))))
    begin = 0 if rng.random() < 0.7 else int(rng.integers(len(main) - num))
    kept_B = page.y_B == 0
    kept_B[main[begin : begin + num]] = True
    return [_relabelled(page, page.page._replace(blocks=page.page.blocks[kept_B].copy()), page.y_B[kept_B])]


def _listed(page: Labelled, rng: np.random.Generator) -> list[Labelled]:
    """Return the page with three to fourteen paragraphs in a row as short items of one kind."""
    nodes, blocks = page.page.nodes.copy(), page.page.blocks.copy()
    main = np.flatnonzero((page.y_B > 0) & (blocks[:, CHARS] > 30))
    if len(main) < 6:
        return []
    num = int(rng.integers(3, min(15, len(main) - 2)))
    begin = int(rng.integers(len(main) - num))
    kind = _DRAWN[int(rng.integers(len(_DRAWN)))]
    inside = sum(1 << names.SEMANTIC.index(name) for name in _KINDS[kind])
    mean = int(rng.integers(15, 60))
    for block in main[begin : begin + num]:
        node = nodes[blocks[block, NODE]]
        if node[TAG] in _FROM:
            node[TAG], node[SEM] = names.CODE[kind], (node[SEM] & ~(1 << names.SEMANTIC.index("p"))) | inside
            blocks[block] = _short(blocks[block], max(6, int(rng.normal(mean, mean / 3))), rng)
    return [_relabelled(page, page.page._replace(nodes=nodes, blocks=blocks), page.y_B)]


def _short(block: Any, chars: int, rng: np.random.Generator) -> Any:
    """Return a block's row as that of an item: few characters, hardly a comma, often a number first."""
    found = block.copy()
    found[CHARS] = chars = min(chars, int(block[CHARS]))
    found[END] = min(block[END], block[START] + chars + _LETTER_BYTES)
    found[LINK_CHARS] = 0 if rng.random() < 0.8 else min(block[LINK_CHARS], chars)
    found[WORDS], found[PUNCT], found[LAST] = max(1, chars // 5), rng.random() < 0.3, ord("e")
    if rng.random() < 0.5:
        found[FIRST] = ord("1") + int(rng.integers(9))
    return found


def _relabelled(page: Labelled, altered: Page, y_B: Any) -> Labelled:
    words_B = altered.blocks[:, WORDS]
    return Labelled(page.fold, altered, block_features(altered), y_B, block_weights(words_B, int(words_B @ y_B)))
