"""How the density extractor's weights are made, and what they score on pages of sites they never saw.

Learned from the Scrapinghub and the readability pages and some of IPython's documentation. A block's label is the share
of its words in the longest common subsequence of the page's words and the gold ones; its weight grows with its part of
the gold text. Five folds by site: the second round learns from estimates that the first one made for unseen sites, and
`cross_validated` repeats that for each fold left out. LightGBM grows the trees (Ke et al. 2017). The second
round is the mean of trees of those pages and of trees of those and what altered.py makes of them.
"""

from __future__ import annotations

import base64
import html
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.extract.context import context_features
from rag_hpc.algo.extract.decode import decode
from rag_hpc.algo.extract.density import scan_page
from rag_hpc.algo.extract.features import block_features
from rag_hpc.algo.extract.html_page import END, START
from rag_hpc.algo.extract.trees import Trees, probability
from rag_hpc.algo.jit import jit_inlined
from rag_hpc.eval.bench.extract.altered import Labelled, block_weights, with_altered
from rag_hpc.eval.bench.extract.data import Sample, tokenize
from rag_hpc.eval.bench.extract.trees import averaged, fit

NUM_FOLDS = 5
Rounds = tuple[Trees, Trees]


def labelled(sample: Sample) -> Labelled:
    """Return what can be learned from a page."""
    page = scan_page(decode(sample.body, None, sample.url).encode("utf-8", "replace"), sample.url)
    raw = page.out.tobytes()
    words = [tokenize(html.unescape(raw[row[START] : row[END]].decode("utf-8", "replace"))) for row in page.blocks]
    gold = tokenize(sample.gold)
    numbers: dict[str, int] = {}
    all_W = np.array([numbers.setdefault(word, len(numbers)) for block in words for word in block], np.int64)
    gold_G = np.array([numbers.setdefault(word, len(numbers)) for word in gold], np.int64)
    lengths_B = np.array([len(block) for block in words])
    hits = np.concatenate([[0], np.cumsum(_in_common(all_W, gold_G))])
    ends_B = np.cumsum(lengths_B)
    share_B = (hits[ends_B] - hits[ends_B - lengths_B]) / np.maximum(lengths_B, 1)
    weight_B = block_weights(lengths_B, len(gold))
    fold = zlib.crc32(sample.site.encode()) % NUM_FOLDS
    return Labelled(fold, page, block_features(page), (share_B > 0.5).astype(np.float64), weight_B)


def learn(pages: Sequence[Labelled]) -> Rounds:
    """Return the trees of both rounds; the second is the mean with those of the pages and what is made of them."""
    return _joined(_learned(pages), _learned(with_altered(pages)))


def cross_validated(pages: Sequence[Labelled]) -> list[Rounds]:
    """Return for each fold the trees learned without its pages."""
    both = zip(_cross_validated(pages), _cross_validated(with_altered(pages)), strict=True)
    return [_joined(plain, altered) for plain, altered in both]


def _joined(plain: Rounds, altered: Rounds) -> Rounds:
    return plain[0], averaged(plain[1], altered[1])


def _learned(pages: Sequence[Labelled]) -> Rounds:
    folds = sorted({page.fold for page in pages})
    unseen = {fold: _fit_first([page for page in pages if page.fold != fold]) for fold in folds}
    return _fit_first(pages), _fit_second(pages, unseen)


def _cross_validated(pages: Sequence[Labelled]) -> list[Rounds]:
    pairs = {
        (a, b): _fit_first([page for page in pages if page.fold not in (a, b)])
        for a in range(NUM_FOLDS)
        for b in range(a, NUM_FOLDS)
    }
    found = []
    for fold in range(NUM_FOLDS):
        others = [page for page in pages if page.fold != fold]
        unseen = {other: pairs[min(fold, other), max(fold, other)] for other in range(NUM_FOLDS)}
        found.append((pairs[fold, fold], _fit_second(others, unseen)))
    return found


def written(rounds: Rounds) -> str:
    """Return the source of algo/extract_weights.py."""
    blobs = [f"    _trees(\n{_literal(trees)},\n        {trees.bias!r},\n    ),\n" for trees in rounds]
    return _HEADER + "FIRST, SECOND = (\n" + "".join(blobs) + ")\n"


def _fit_first(pages: Sequence[Labelled]) -> Trees:
    return fit(np.vstack([page.x_BF for page in pages]), *_targets(pages))


def _fit_second(pages: Sequence[Labelled], first: dict[int, Trees]) -> Trees:
    rows = []
    for page in pages:
        guess_B = probability(first[page.fold], page.x_BF)
        rows.append(np.hstack([page.x_BF, context_features(page.page, guess_B)]))
    return fit(np.vstack(rows), *_targets(pages))


def _targets(pages: Sequence[Labelled]) -> tuple[Any, Any]:
    return np.concatenate([page.y_B for page in pages]), np.concatenate([page.weight_B for page in pages])


@jit_inlined
def _in_common(a: Any, b: Any) -> Any:
    """Return which words of a are in a longest common subsequence of a and b; runs of words count for more."""
    n, m = a.size, b.size
    best = np.zeros((n + 1, m + 1), np.int32)
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            if a[i] == b[j]:
                run = i + 1 < n and j + 1 < m and a[i + 1] == b[j + 1]
                best[i, j] = best[i + 1, j + 1] + (13 if run else 10)
            else:
                best[i, j] = max(best[i + 1, j], best[i, j + 1])
    found, i, j = np.zeros(n, np.int64), 0, 0
    while i < n and j < m:
        if a[i] == b[j] and best[i, j] >= max(best[i + 1, j], best[i, j + 1]):
            found[i] = 1
            i += 1
            j += 1
        elif best[i + 1, j] >= best[i, j + 1]:
            i += 1
        else:
            j += 1
    return found


_HEADER = '''"""Weights of the density extractor; `rag-hpc bench extract train=FILE` writes them anew."""

from __future__ import annotations

import base64
import zlib
from itertools import pairwise

import numpy as np

from rag_hpc.algo.extract.trees import Trees


def _trees(packed: str, bias: float) -> Trees:
    """Return trees from base85 of zlib of their arrays in a row: feature, left, roots, value, threshold."""
    raw = zlib.decompress(base64.b85decode(packed))
    num_roots, num_nodes = np.frombuffer(raw, "<u4", 2)
    ends = np.cumsum([8, 2 * num_nodes, 2 * num_nodes, 2 * num_roots, 4 * num_nodes, 4 * num_nodes])
    parts = [raw[begin:end] for begin, end in pairwise(ends)]
    feature, left, roots = (np.frombuffer(part, "<u2") for part in parts[:3])
    value, threshold = (np.frombuffer(part, "<f4") for part in parts[3:])
    return Trees(feature, threshold, left, value, roots, bias)


'''


def _literal(trees: Trees) -> str:
    arrays = (trees.feature, trees.left, trees.roots, trees.value, trees.threshold)
    sizes = np.array([len(trees.roots), len(trees.value)], "<u4")
    raw = sizes.tobytes() + b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    text = base64.b85encode(zlib.compress(raw, 9)).decode("ascii")
    lines = [text[at : at + 100] for at in range(0, len(text), 100)]
    return "        (\n" + "\n".join(f"            {line!r}" for line in lines) + "\n        )"
