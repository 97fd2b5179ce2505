"""Files of the indexes: Lucene shards, packed; what was trained for the vector index, and its FAISS shards."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import U8, Array
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError

LEXICAL = "index.tar"
SPANS = "spans.npy"  # [documents, 2]: the ordinals [first, stop) of the passages of an index that was made elsewhere
CENTROIDS, PROBES, TEMPLATE = "centroids.npy", "probes.json", "template.faiss"
INVERTED = "index.faiss"


class Kind(enum.Enum):
    """Vector indexes, by what FAISS calls them. The search of an `ivf_*` shard gives the same as that of one index."""

    flat = "flat"
    ivf_flat = "ivf_flat"
    ivf_fp16 = "ivf_fp16"
    ivf_sq8 = "ivf_sq8"
    ivf_pq = "ivf_pq"
    ivf_pq_fastscan = "ivf_pq_fastscan"
    ivf_rabitq = "ivf_rabitq"
    hnsw = "hnsw"

    @property
    def has_lists(self) -> bool:
        """Whether a query probes some of many inverted lists."""
        return self.value.startswith("ivf_")

    @property
    def has_codes(self) -> bool:
        """Whether its scores are not those of the vectors, so that a shortlist is needed."""
        return self in (Kind.ivf_sq8, Kind.ivf_pq, Kind.ivf_pq_fastscan, Kind.ivf_rabitq)


class IndexName(enum.Enum):
    """What a user may ask for: a kind, or the one that fits."""

    flat = "flat"
    ivf_flat = "ivf_flat"
    ivf_fp16 = "ivf_fp16"
    ivf_sq8 = "ivf_sq8"
    ivf_pq = "ivf_pq"
    ivf_pq_fastscan = "ivf_pq_fastscan"
    ivf_rabitq = "ivf_rabitq"
    hnsw = "hnsw"
    auto = "auto"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """A kind of index, and how hard a query searches it; 0 where the kind has no use for it."""

    kind: Kind = Kind.ivf_fp16
    num_probes: int = 0  # inverted lists
    shortlist: int = 0  # hits by code score that exact scores rank, where that is more than the depth
    ef_search: int = 0  # candidates held while a graph is walked


EFFORT_NUMBERS = ("num_probes", "shortlist", "ef_search")


def write_trained(unit_dir: Path, centroids_LD: Array, template: U8 | None, effort: Effort) -> None:
    """Write the effort, and the centroids of the inverted lists or, of a kind with codebooks, the empty index that has
    both."""
    if template is None:
        np.save(unit_dir / CENTROIDS, centroids_LD, allow_pickle=False)
    else:
        (unit_dir / TEMPLATE).write_bytes(template.tobytes())
    write_effort(unit_dir, effort)


def write_effort(unit_dir: Path, effort: Effort) -> None:
    """Write what a query does."""
    value = {"index": effort.kind.value, "num_probes": effort.num_probes}
    more = {"shortlist": effort.shortlist, "ef_search": effort.ef_search}
    (unit_dir / PROBES).write_bytes(canonical_json({**value, **{k: v for k, v in more.items() if v}}))


def read_trained(trained: Manifest) -> Array:
    """Return the centroids, [L, D] float32, or the bytes of the empty index, uint8."""
    if trained.holders(TEMPLATE):
        return np.frombuffer(trained.checked(0, TEMPLATE).read_bytes(), dtype=np.uint8)
    centroids_LD: Array = np.load(trained.files(CENTROIDS)[0], allow_pickle=False)
    return centroids_LD


def effort_of(made: Manifest) -> Effort | None:
    """Return what a query does, of a manifest of `vectors.train` or `vectors.build`; None where a run of before 0.2
    says nothing. Those know one kind."""
    if not made.holders(PROBES):
        return None
    value = read_json(made.files(PROBES)[0])
    kind = value.pop("index", Kind.ivf_fp16.value)
    if kind not in Kind.__members__:
        raise ConfigError(f"{made.folder}: an index of kind {kind!r}; known: {', '.join(Kind.__members__)}")
    return Effort(kind=Kind[kind], **{name: int(number) for name, number in value.items()})


def load_shards(built: Manifest, positions: Sequence[int]) -> list[Any]:
    """Return the FAISS shards at these positions; their hashes are checked before FAISS parses the bytes."""
    import faiss

    faiss.omp_set_num_threads(1)
    return [faiss.read_index(str(built.checked(position, INVERTED))) for position in positions]
