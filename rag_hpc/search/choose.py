"""Which kind of vector index fits: bytes of each kind before it is built, and the choice by size, memory and recall."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rag_hpc.errors import ConfigError
from rag_hpc.search.indexes import LINKS, sub_dims
from rag_hpc.stores.shards import IndexName, Kind

GIB = 1 << 30
_ID, _EXACT_ROW = 8, 2  # bytes of an id; of a number of the float16 rows that exact scores come from
_SMALL = 1000  # rows; below, a search of all takes no longer than probing lists
# Fastest first at a recall@10 of 0.95 on 100,000 vectors: `rag-hpc bench vectors`
BY_SPEED = (Kind.ivf_pq_fastscan, Kind.ivf_rabitq, Kind.ivf_fp16, Kind.ivf_sq8, Kind.ivf_pq)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of all shards of an index together."""

    codes: int  # vectors, or what stands for them
    ids: int
    overhead: int  # centroids, codebooks, links, unused room

    @property
    def total(self) -> int:
        """All of it."""
        return self.codes + self.ids + self.overhead


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kind of index, its size, and why it was taken."""

    kind: Kind
    size: Size
    why: str

    def text(self) -> str:
        """Return a line for people."""
        size = self.size
        return (
            f"{self.kind.value}: {size.total:,} bytes ({size.codes:,} of vectors, {size.ids:,} of ids, "
            f"{size.overhead:,} beside); {self.why}"
        )


def default_lists(num_rows: int) -> int:
    """Return the number of inverted lists for a training sample (FAISS asks for at least 39 rows a list)."""
    return max(1, min(int(4 * math.sqrt(num_rows)), num_rows // 39))


def size_of(kind: Kind, num_rows: int, dims: int, num_lists: int, num_shards: int = 1) -> Size:
    """Return the bytes of an index, within a few percent; FastScan fills its last block of 32 rows of each list."""
    lists = num_lists * num_shards if kind.has_lists else 0
    code = {
        Kind.flat: 4 * dims,
        Kind.ivf_flat: 4 * dims,
        Kind.hnsw: 4 * dims,
        Kind.ivf_fp16: 2 * dims,
        Kind.ivf_sq8: dims,
        Kind.ivf_pq: dims // sub_dims(dims, 8),
        Kind.ivf_pq_fastscan: -(-(dims // sub_dims(dims, 4)) // 2),
        Kind.ivf_rabitq: -(-dims // 8) + 8,
    }[kind]
    blocks = 16 * min(lists, num_rows) * code if kind in (Kind.ivf_pq_fastscan, Kind.ivf_rabitq) else 0
    links = num_rows * (LINKS * 2 * 4 + 4 + 8 + 5) if kind is Kind.hnsw else 0
    codebooks = num_shards * 4 * dims * {Kind.ivf_pq: 256, Kind.ivf_pq_fastscan: 16}.get(kind, 0)
    overhead = lists * (4 * dims + 8) + blocks + links + codebooks
    return Size(codes=num_rows * code, ids=num_rows * _ID, overhead=overhead)


def choose(index: IndexName, num_rows: int, dims: int, *, num_shards: int, mem_gib: float, recall: float) -> Choice:
    """Return the kind that was asked for, or with `auto` the fastest that fits into a rank's memory at the recall.

    A rank holds a shard and its share of the float16 rows. Raises ConfigError where nothing fits.
    """
    lists = default_lists(min(num_rows, 1 << 16))

    def sized(kind: Kind) -> Size:
        return size_of(kind, num_rows, dims, lists, num_shards)

    if index is not IndexName.auto:
        kind = Kind[index.name]
        return Choice(kind=kind, size=sized(kind), why="as asked for")
    rows = num_rows * dims * _EXACT_ROW
    limit = mem_gib * GIB * num_shards if mem_gib else math.inf
    held = f"{num_rows:,} vectors of {dims}"
    if num_rows < _SMALL and sized(Kind.flat).total + rows <= limit:
        return Choice(kind=Kind.flat, size=sized(Kind.flat), why=f"{held}: so few are searched exactly, recall 1")
    if recall > 0.999:
        ranked: tuple[Kind, ...] = (Kind.ivf_fp16, Kind.ivf_sq8)
    else:
        ranked = BY_SPEED
    for kind in ranked:
        size = sized(kind)
        if size.total + rows <= limit:
            room = f"a rank's {mem_gib:g} GiB" if mem_gib else "no limit of memory"
            faster = ranked[: ranked.index(kind)]
            passed = f"; {', '.join(k.value for k in faster)} would be faster and need more" if faster else ""
            return Choice(
                kind=kind,
                size=size,
                why=f"{held}, recall {recall:g}, {room} in {num_shards} shards: the fastest that fits{passed}",
            )
    least = min(sized(kind).total for kind in ranked) + rows
    raise ConfigError(
        f"stage.vectors.index=auto: {held} need {least / GIB:.1f} GiB with their rows, and {num_shards} shards of "
        f"mem_gib={mem_gib:g} have {limit / GIB:.1f}; set stage.vectors.num_shards={math.ceil(least / GIB / mem_gib)}"
    )
