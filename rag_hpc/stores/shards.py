"""Files of the indexes: Lucene shards, packed; the trained quantizer of the vector index, and its FAISS shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.core.manifest import Manifest

LEXICAL = "index.tar"
CENTROIDS, PROBES = "centroids.npy", "probes.json"
INVERTED = "index.faiss"


def write_trained(unit_dir: Path, centroids_LD: Array, num_probes: int) -> None:
    """Write the centroids of the inverted lists, and how many of them a query probes."""
    np.save(unit_dir / CENTROIDS, centroids_LD, allow_pickle=False)
    (unit_dir / PROBES).write_bytes(canonical_json({"num_probes": num_probes}))


def read_centroids(trained: Manifest) -> Array:
    """Return the centroids of the inverted lists."""
    centroids_LD: Array = np.load(trained.files(CENTROIDS)[0], allow_pickle=False)
    return centroids_LD


def probes_of(trained: Manifest) -> int:
    """Return how many lists a query probes, as the training found."""
    return int(read_json(trained.files(PROBES)[0])["num_probes"])


def load_shards(built: Manifest, positions: list[int]) -> list[Any]:
    """Return the FAISS shards at these positions; their hashes are checked before FAISS parses the bytes."""
    import faiss

    faiss.omp_set_num_threads(1)
    return [faiss.read_index(str(built.checked(position, INVERTED))) for position in positions]
