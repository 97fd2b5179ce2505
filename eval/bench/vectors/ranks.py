"""A step of a vector index as a rank of MPI: a stage of ours over files in a folder, or questions to what it built."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.rank.topk import merge_topk
from rag_hpc.core.comm import Comm
from rag_hpc.core.commit import UNITS
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context
from rag_hpc.eval.bench.vectors.data import array_path
from rag_hpc.search.ann import Ann, gathered, slice_of
from rag_hpc.search.recall import compare, truth_of
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.tables import read_table
from rag_hpc.stores.vectors import VectorStore

NEEDS = {
    "vectors.train": ("encode",),
    "vectors.build": ("encode", "vectors.train"),
    "vectors.check": ("encode", "vectors.build", "retrieve.queries"),
    "serve": ("encode", "vectors.build"),
}


def work(step: str, folder: Path, settings: dict[str, Any], comm: Comm) -> None:
    """Do this rank's part of a step; rank 0 writes told.json after the last."""
    inputs = {name: manifest_of(name, folder / name) for name in NEEDS[step]}
    if step == "serve":
        serve(inputs, folder, comm)
        return
    scratch = folder / f"scratch-{comm.rank}"
    scratch.mkdir(exist_ok=True)
    ctx = Context(inputs=inputs, rank=comm.rank, world_size=comm.world_size, comm=comm, scratch=scratch, seed=1)
    stage = make_stage(step, settings)
    units = stage.plan(inputs, folder)
    stage.setup(ctx)
    for unit in units:
        mine = unit.index % comm.world_size == comm.rank
        if mine or stage.collective:
            out = (folder / step / UNITS if mine else scratch / step) / unit.name
            out.mkdir(parents=True, exist_ok=True)
            stage.run(unit, out, ctx)
    comm.barrier()


def serve(inputs: dict[str, Manifest], folder: Path, comm: Comm) -> None:
    """Answer the questions in blocks of 64, and note the rate and the recall."""
    store = VectorStore(inputs["encode"])
    first, stop = slice_of(len(store), comm)
    rows = store.rows(first, stop)
    index = Ann(inputs["vectors.build"], rows, first, comm)
    queries = np.load(array_path(folder, "queries"))

    def answer(block: Any) -> None:
        parts = gathered(index.search(block, 100), comm)
        if parts:
            merge_topk(parts, 100)

    answer(queries[:64])
    comm.barrier()
    begun = time.monotonic()
    for low in range(0, len(queries), 64):
        answer(queries[low : low + 64])
    seconds = time.monotonic() - begun
    found = compare(index, queries, truth_of(queries, (rows, first), comm), comm)
    if comm.rank == 0:
        told = {"recall": found[0].mean, "asked": found[0].num, "rate": len(queries) / seconds}
        (folder / "told.json").write_text(json.dumps(told))


def manifest_of(stage: str, folder: Path) -> Manifest:
    """Return a manifest of the files that lie in a folder's units."""
    units = []
    for index, unit_dir in enumerate(sorted((folder / UNITS).iterdir())):
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(unit_dir.iterdir()):
            files[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path), "rows": None}
            if path.suffix == ".npy":
                files[path.name]["rows"] = int(np.load(path, mmap_mode="r").shape[0])
            elif path.suffix == ".parquet":
                files[path.name]["rows"] = read_table(path).num_rows
        num = max(file["rows"] or 0 for file in files.values())
        units.append({"index": index, "files": files, "items_in": num, "items_out": num, "dropped": {}, "extra": {}})
    return Manifest(
        stage=stage,
        version=1,
        fingerprint="0" * 64,
        config={},
        inputs={},
        units=units,
        quarantined=[],
        output_hash="0" * 64,
        folder=folder,
    )
