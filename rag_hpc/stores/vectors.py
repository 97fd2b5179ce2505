"""Vectors: one file a unit, written as float16, and those of a finished encode stage by their global ordinal."""

from __future__ import annotations

import json
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError, IncompleteError
from rag_hpc.stores.arrays import ArrayFile

VECTORS = "vectors.npy"
FACTS = "encoder.json"  # of a unit: what made its vectors; runs of before 0.2 have none
SAME_SPACE = ("weights", "pooling", "normalize", "dims")  # what passages and queries must share
_MAX_MAPS = 256  # the kernel allows a process 65,530


def write_vectors(unit_dir: Path, vectors_ND: Array) -> None:
    """Write the unit's vectors as float16."""
    np.save(unit_dir / VECTORS, vectors_ND.astype(np.float16, copy=False), allow_pickle=False)


def write_facts(unit_dir: Path, facts: dict[str, Any]) -> None:
    """Write what made the unit's vectors."""
    (unit_dir / FACTS).write_bytes(canonical_json(facts))


def check_same_space(facts: dict[str, Any], encoded: Manifest) -> None:
    """Raise ConfigError when an encoder with these facts is not the one that made the encode stage's vectors."""
    theirs = read_facts(encoded)
    other = [name for name in SAME_SPACE if theirs and facts[name] != theirs[name]]
    if other:
        was, now = ({name: found[name] for name in other} for found in (theirs, facts))
        raise ConfigError(
            f"the queries' encoder differs from that of the passages in {', '.join(other)}: {now} instead of {was}; "
            f"the model's folder has changed, or stage.queries.model and dims are not those of stage.encode; encode "
            "again, or set them alike"
        )


def read_facts(encoded: Manifest) -> dict[str, Any]:
    """Return what made the encode stage's vectors, empty for a run that does not say. Raises ConfigError where its
    units were made in several ways and that was not allowed.
    """
    holders = encoded.holders(FACTS)
    hashes = {unit["index"]: unit["files"][FACTS]["sha256"] for unit in encoded.units if FACTS in unit["files"]}
    if not holders:
        return {}
    one = holders[0]
    facts: dict[str, Any] = json.loads(encoded.file(one, FACTS).read_bytes())
    other = next((index for index, found in hashes.items() if found != hashes[one]), None)
    if other is not None and not encoded.config.get("allow_mixed"):
        raise ConfigError(
            f"encode: unit {one} was made with {facts}, unit {other} with "
            f"{json.loads(encoded.file(other, FACTS).read_bytes())}; remove {encoded.unit_dir(other)} and encode it on "
            "the same kind of node, or run with stage.encode.allow_mixed=true"
        )
    return facts


class VectorStore:
    """The encode stage's rows as if they were one array [N, D] float16."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises IncompleteError when units are quarantined: the rows after a gap would pass for other passages.

        And ConfigError where processors of several classes made them without leave.
        """
        if manifest.quarantined:
            raise IncompleteError(
                f"encode: {len(manifest.quarantined)} units are quarantined, and vectors are numbered by position "
                f"across all of them; remove {manifest.folder}/manifest.json and run: rag-hpc retry"
            )
        read_facts(manifest)
        self._manifest, self._indices = manifest, manifest.holders(VECTORS)
        num_rows = [unit["files"][VECTORS]["rows"] for unit in manifest.units if VECTORS in unit["files"]]
        self._first = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int64)
        self._maps: OrderedDict[int, Array] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop) as one array, read and not mapped."""
        start, stop = min(start, len(self)), min(stop, len(self))
        whole: Array = np.empty((max(0, stop - start), self.width), dtype=np.float16)
        for position, (first, end) in enumerate(pairwise(self._first.tolist())):
            low, high = max(start, first), min(stop, end)
            if low < high:
                whole[low - start : high - start] = ArrayFile(self._path(position)).rows(low - first, high - first)
        return whole

    def take(self, ordinals: Array) -> Array:
        """Return the rows with these ordinals, which are ascending."""
        edges = np.searchsorted(ordinals, self._first).tolist()
        parts = [
            self._map(position)[ordinals[start:stop] - self._first[position]]
            for position, (start, stop) in enumerate(pairwise(edges))
            if start < stop
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.width), dtype=np.float16)

    @property
    def width(self) -> int:
        """The vectors' dimensions."""
        return int(ArrayFile(self._path(0)).shape[1]) if self._indices else 0

    def _path(self, position: int) -> Path:
        return self._manifest.file(self._indices[position], VECTORS)

    def _map(self, position: int) -> Array:
        """Return a unit's vectors, mapped; the maps used last are kept."""
        if position not in self._maps:
            self._maps[position] = np.load(self._path(position), mmap_mode="r", allow_pickle=False)
            if len(self._maps) > _MAX_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(position)
        return self._maps[position]
