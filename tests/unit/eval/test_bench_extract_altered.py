from __future__ import annotations

import numpy as np

from rag_hpc.algo.extract.features import GROUP_COLUMNS, NAMES
from rag_hpc.algo.extract.html_page import NODE, TAG
from rag_hpc.eval.bench.extract import train
from rag_hpc.eval.bench.extract.altered import with_altered
from rag_hpc.eval.bench.extract.data import Sample

_LINES = [
    f"paragraph number {k} has quite some words, and each of them is told from the rest by {k}" for k in range(12)
]
_BODY = (
    "<nav class='menu tags share related byline footer'><a href=/>Home page</a></nav>"
    "<div class='content sidebar ad note'>" + "".join(f"<p>{line}</p>" for line in _LINES) + "</div>"
)


def test_columns_of_class_names_are_those() -> None:
    assert {NAMES[k].split("_")[0] for k in GROUP_COLUMNS.ravel()} == {"inherited", "branch", "own"}
    assert all(len({NAMES[k].split("_")[1] for k in column}) == 1 for column in GROUP_COLUMNS.T)


def test_pages_are_shortened_listed_and_without_names_and_the_same_again() -> None:
    page = train.labelled(Sample("n", "site", _BODY.encode(), "http://site/", "\n".join(_LINES)))
    assert page.y_B.sum() == 12
    first, plain, short, items = with_altered([page])
    assert first is page
    assert np.array_equal(plain.page.blocks, page.page.blocks)
    assert plain.x_BF[:, GROUP_COLUMNS].sum() < page.x_BF[:, GROUP_COLUMNS].sum()
    assert 1 <= short.y_B.sum() < 8 and (short.y_B == 0).sum() == 1
    assert len(short.x_BF) == len(short.weight_B) == len(short.page.blocks) == len(short.y_B)
    changed = (items.page.blocks != page.page.blocks).any(axis=1)
    assert 3 <= changed.sum() < 15 and not changed[page.y_B == 0].any()
    assert len(set(items.page.nodes[items.page.blocks[changed, NODE], TAG])) == 1
    assert {one.fold for one in (plain, short, items)} == {page.fold}
    for one, again in zip(with_altered([page]), (first, plain, short, items), strict=True):
        assert np.array_equal(one.x_BF, again.x_BF)
