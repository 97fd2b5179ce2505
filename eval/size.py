"""`rag-hpc size passages=1e9 dims=384 mem_gb=64`: how many shards the vectors of a collection need, before any is made.

Shards are counted for the vectors alone, as capacity is; what then is left of a rank's memory stands on a line of its
own, with the number that leaves a fifth free for ids, centroids, queries and the operating system.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rag_hpc.arguments import as_json
from rag_hpc.errors import ConfigError
from rag_hpc.eval.results import named

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of a number
GB = 10**9
ID_BYTES = 8
FREE = 0.2  # of a rank's memory, for all but vectors and ids
TIMED = ("encode", "vectors.train", "vectors.build")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a collection's vectors take."""

    passages: int
    dims: int
    dtype: str
    mem_gb: float
    vector_bytes: int
    id_bytes: int
    num_shards: int  # filled with vectors and nothing else
    headroom_bytes: int  # of each of those shards
    num_shards_with_headroom: int
    hours: dict[str, float]  # of one worker, by stage, at the rates of a run; empty without one


def size(arguments: Arguments) -> int:
    """Print what the collection takes."""
    found = measure(
        passages=_whole(arguments, "passages"),
        dims=_whole(arguments, "dims"),
        dtype=arguments.override("dtype") or "float32",
        mem_gb=_number(arguments, "mem_gb"),
        rates=_rates(arguments),
    )
    print(as_json(asdict(found)) if "--json" in arguments.flags else as_text(found))
    return 0


def measure(*, passages: int, dims: int, dtype: str, mem_gb: float, rates: dict[str, float]) -> Size:
    """Return what the vectors take. rates: passages a second of one worker, by stage. Raises ConfigError."""
    if dtype not in BYTES:
        raise ConfigError(f"size: dtype={dtype}: known are {', '.join(BYTES)}")
    memory = mem_gb * GB
    vectors, ids = passages * dims * BYTES[dtype], passages * ID_BYTES
    if memory < dims * BYTES[dtype] + ID_BYTES:
        raise ConfigError(f"size: mem_gb={mem_gb:g} does not hold one vector of {dims} {dtype}; try mem_gb=64")
    num_shards = max(1, math.ceil(vectors / memory))
    return Size(
        passages=passages,
        dims=dims,
        dtype=dtype,
        mem_gb=mem_gb,
        vector_bytes=vectors,
        id_bytes=ids,
        num_shards=num_shards,
        headroom_bytes=int(memory) - math.ceil(vectors / num_shards),
        num_shards_with_headroom=max(1, math.ceil((vectors + ids) / (memory * (1 - FREE)))),
        hours={stage: round(passages / rate / 3600, 2) for stage, rate in rates.items()},
    )


def as_text(found: Size) -> str:
    """Return the lines for people."""
    ids_a_shard = found.id_bytes / found.num_shards
    lines = [
        f"passages {found.passages:,} of {found.dims} {found.dtype}",
        f"bytes {found.vector_bytes:,} of vectors, {found.id_bytes:,} of ids",
        f"num_shards {found.num_shards} of {found.mem_gb:g} GB, for the vectors alone",
        f"headroom {found.headroom_bytes / GB:.2f} GB a shard, of which its ids take {ids_a_shard / GB:.2f}; "
        f"with {FREE:.0%} kept free and ids: num_shards {found.num_shards_with_headroom}",
    ]
    lines += [f"hours {hours:,} of one worker for {stage}, at the run's rate" for stage, hours in found.hours.items()]
    return "\n".join(lines)


def _rates(arguments: Arguments) -> dict[str, float]:
    """Return passages a second of one worker, as the named run measured them."""
    if arguments.override("run") is None:
        return {}
    results, rates = named(arguments, arguments.override("run")), {}
    for stage in TIMED:
        records = results.records(stage)
        items = sum(record["items_in"] for record in records)
        work_s = sum(record["work_s"] for record in records)
        if items and work_s:
            rates[stage] = items / work_s
    return rates


def _whole(arguments: Arguments, key: str) -> int:
    value = _number(arguments, key)
    if value != int(value):
        raise ConfigError(f"size: {key}={value:g}: a whole number is needed, such as 1e9")
    return int(value)


def _number(arguments: Arguments, key: str) -> float:
    given = arguments.override(key)
    example = {"passages": "1e9", "dims": "384", "mem_gb": "64"}[key]
    try:
        value = float(given or "")
    except ValueError:
        value = math.nan
    if not 0 < value < 1e18:
        raise ConfigError(f"size: {key}={given or ''}: a number above 0 is needed, such as {key}={example}")
    return value
