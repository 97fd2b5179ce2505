"""Which passages a document of a rank's Lucene shards holds: one, or those of a whole document.

P documents; a span is the ordinals [first, stop) of a document's passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.core.manifest import Manifest
from rag_hpc.search.shards import Shards
from rag_hpc.stores.shards import SPANS

Spans = Callable[[I64], I64]  # documents -> [P, 2]


def spans_of(shards: Shards, lexical: Manifest, mine: Sequence[int]) -> Spans:
    """Return what tells the spans of documents of the shards, which are those units of the lexical stage."""
    if lexical.holders(SPANS):
        paths = [lexical.file(lexical.units[position]["index"], SPANS) for position in mine]
        parts = [np.load(path, allow_pickle=False) for path in paths]
        spans_N2 = np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
        return lambda docs: spans_N2[docs]
    held = np.diff(shards.starts) > 0
    names, ordinals = shards.ids(shards.starts[:-1][held]), np.zeros(len(mine), dtype=np.int64)
    if any("-" in name for name in names):
        return lambda docs: _named(shards.ids(docs))
    ordinals[held] = [int(name) for name in names]

    def consecutive(docs: I64) -> I64:
        shard = np.searchsorted(shards.starts, docs, side="right") - 1
        firsts = docs - shards.starts[shard] + ordinals[shard]
        return np.stack([firsts, firsts + 1], axis=1)

    return consecutive


def _named(names: Sequence[str]) -> I64:
    return np.array([[int(part) for part in name.split("-")] for name in names], dtype=np.int64).reshape(-1, 2)
