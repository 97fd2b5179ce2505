"""Vectors of a finished encode stage by their global ordinal, memory-mapped, and the FAISS shards built of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.core.fs import read_json
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import IncompleteError

VECTORS = "vectors.npy"
INDEX = "index.faiss"
PROBES = "probes.json"
Array = npt.NDArray[Any]


class VectorStore:
    """The encode stage's rows as if they were one array [N, D] float16."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises IncompleteError when units are quarantined: the rows after a gap would pass for other passages."""
        if manifest.quarantined:
            raise IncompleteError(
                f"encode: {len(manifest.quarantined)} units are quarantined, and vectors are numbered by position "
                f"across all of them; remove {manifest.folder}/manifest.json and run: rag-hpc retry"
            )
        self._parts = [np.load(path, mmap_mode="r", allow_pickle=False) for path in manifest.files(VECTORS)]
        self._first = np.concatenate([[0], np.cumsum([len(part) for part in self._parts])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop) as one array."""
        pieces = [part[max(0, start - int(first)) : stop - int(first)]
                  for part, first in zip(self._parts, self._first, strict=False)
                  if start < int(first) + len(part) and stop > int(first)]
        return np.concatenate(pieces) if pieces else np.zeros((0, self._width()), dtype=np.float16)

    def take(self, ordinals: Array) -> Array:
        """Return the rows with these ordinals, which are ascending."""
        positions = np.searchsorted(self._first, ordinals, side="right") - 1
        rows = [self._parts[p][o - self._first[p]] for p, o in zip(positions, ordinals, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, self._width()), dtype=np.float16)

    def _width(self) -> int:
        return int(self._parts[0].shape[1]) if self._parts else 0


def load_shards(manifest: Manifest, positions: list[int]) -> list[Any]:
    """Return the FAISS shards at these positions; their hashes are checked before FAISS parses the bytes."""
    import faiss

    faiss.omp_set_num_threads(1)
    return [faiss.read_index(str(manifest.checked(position, INDEX))) for position in positions]


def probes_of(trained: Manifest) -> int:
    """Return how many lists a query probes, as the training found."""
    return int(read_json(trained.files(PROBES)[0])["num_probes"])
