"""The vectors that indexes are compared on: real encodings, and points between neighbours of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F32, Array
from rag_hpc.errors import InputError

NEIGHBOURS = 30


def tiled(folder: Path, num_rows: int, dims: int = 0, seed: int = 0) -> tuple[Array, F32]:
    """Return (rows float16, queries float32) of unit length: the folder's encodings first, then points up to half way
    between one and one of its 30 nearest. dims: only so many of the first dimensions, 0 = all.

    Raises InputError where the encodings are not there.
    """
    import faiss

    path = folder / "ann_bge_base"
    if not path.is_dir():
        raise InputError(f"{path}: not there; set RAG_HPC_DATA or data=FOLDER to the folder that holds ann_bge_base")
    base, queries = (_unit(np.load(path / name), dims) for name in ("base.f16.npy", "queries.f16.npy"))
    rng = np.random.default_rng(seed)
    flat = faiss.IndexFlatIP(base.shape[1])
    flat.add(base)
    near = flat.search(base, NEIGHBOURS + 1)[1][:, 1:]
    rows = np.empty((num_rows, base.shape[1]), dtype=np.float16)
    rows[: len(base)] = base[:num_rows]
    for low in range(len(base), num_rows, 1 << 16):
        num = min(1 << 16, num_rows - low)
        one = rng.integers(0, len(base), num)
        other, share = near[one, rng.integers(0, NEIGHBOURS, num)], rng.uniform(0, 0.5, (num, 1)).astype(np.float32)
        rows[low : low + num] = _unit((1 - share) * base[one] + share * base[other], 0)
    return rows, queries


def array_path(folder: Path, part: str) -> Path:
    """Return where the processes of a benchmark pass on an array."""
    return folder / f"{part}.npy"


def _unit(rows: Array, dims: int) -> F32:
    part = rows[:, : dims or None].astype(np.float32)
    unit: F32 = np.ascontiguousarray(part / np.linalg.norm(part, axis=1, keepdims=True))
    return unit
