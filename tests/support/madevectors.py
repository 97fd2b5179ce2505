"""Made-up vectors, and an encode stage's output that holds them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from manifests import manifest_of

from rag_hpc.core.manifest import Manifest


def encoded(folder: Path, rows: Any, per_unit: int = 50) -> dict[str, Manifest]:
    """Return a made-up encode stage's output that holds these rows."""
    for index, start in enumerate(range(0, len(rows), per_unit)):
        unit_dir = folder / "encode" / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        part = rows[start : start + per_unit].astype(np.float16)
        np.save(unit_dir / "vectors.npy", part, allow_pickle=False)
    given = manifest_of(folder / "encode", "encode")
    counted = [
        {**unit, "items_in": num, "items_out": num, "dropped": {}, "extra": {}}
        for unit, num in zip(given.units, given.rows("vectors.npy"), strict=True)
    ]
    return {"encode": dataclasses.replace(given, units=counted, output_hash=str(len(rows)))}


def clustered(num_rows: int, dims: int = 16, clusters: int = 20) -> Any:
    """Return unit vectors in clusters, [N, D] float32."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((clusters, dims))
    rows = centres[rng.integers(0, clusters, num_rows)] + 0.3 * rng.standard_normal((num_rows, dims))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
