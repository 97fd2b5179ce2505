"""Shards by the values of a column of the chunks: in which order they stand, and where shards begin.

N passages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.errors import ConfigError
from rag_hpc.stores.chunks import ChunkStore, split_evenly

MOST = 1000  # values of a column that shards are made by


def ordinals_by(chunks: ChunkStore, column: str) -> I64:
    """Return all passages' ordinals by (value of the column, ordinal), those without a value first."""
    return np.argsort(_codes(chunks, column)[0], kind="stable").astype(np.int64)


def partitions(chunks: ChunkStore, column: str, num_shards: int) -> list[dict[str, Any]]:
    """Return the shards as {start, stop, value}, places in `ordinals_by`; each is at most an even share.

    Raises ConfigError for a column that is not there or has more than MOST values."""
    codes_N, values = _codes(chunks, column)
    if len(values) > MOST:
        raise ConfigError(
            f"partition_by={column}: {len(values)} values, at most {MOST} make shards; leave it away and use a filter"
        )
    shards, first, share = [], 0, max(1, -(-len(codes_N) // num_shards))
    for value, num in zip(values, np.bincount(codes_N, minlength=len(values)).tolist(), strict=True):
        for start, stop in split_evenly(num, -(-num // share)):
            shards.append({"start": first + start, "stop": first + stop, "value": value})
        first += num
    return shards


def check_column(column: str, known: dict[str, str], setting: str) -> None:
    """Raise ConfigError for a column that passages do not have."""
    if column and column not in known:
        raise ConfigError(
            f"{setting}={column}: passages have no such field; they have {', '.join(known)}. A field of the documents "
            f"becomes one with stage.chunk.fields={{{column}: string}}"
        )


def _codes(chunks: ChunkStore, column: str) -> tuple[I64, list[str]]:
    """Return the number of each passage's value, [N], and the values in order; a passage without has ""."""
    import pyarrow as pa
    import pyarrow.compute as pc

    check_column(column, chunks.columns, "partition_by")
    given: Any = chunks.arrow(column).cast(pa.large_string())
    texts = pc.fill_null(given, "").dictionary_encode()
    values = texts.dictionary.to_pylist()
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values))
    return ranks[texts.indices.to_numpy(zero_copy_only=False)], [values[at] for at in order]
