"""1,000,000 vectors of 384 dimensions through our own stages, by ranks that speak MPI: built, checked and served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core.commit import UNITS
from rag_hpc.eval.bench.peak import peaks, through
from rag_hpc.eval.bench.rows import Row, cpu_class
from rag_hpc.eval.bench.vectors.data import array_path, tiled
from rag_hpc.stores.questions import write_questions
from rag_hpc.stores.vectors import write_vectors

ROWS, DIMS, SHARDS, UNITS_MADE = 1_000_000, 384, 4, 16
LIMIT_GIB = 8.0
STEPS = ("vectors.train", "vectors.build", "vectors.check", "serve")
SETTINGS: dict[str, Any] = {
    "index": "ivf_pq_fastscan",
    "num_shards": SHARDS,
    "min_recall": 0.95,
    "num_probes": 96,
    "shortlist": 400,
}


def run(data: Path, num_ranks: int) -> list[Row]:
    """Return the memory of all ranks together at its highest, with times and recall."""
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folder = Path(made)
        rows, queries = tiled(data, ROWS, DIMS)
        for number, part in enumerate(np.array_split(rows, UNITS_MADE)):
            unit_dir = folder / "encode" / UNITS / f"unit-{number:05d}"
            unit_dir.mkdir(parents=True)
            write_vectors(unit_dir, part)
        np.save(array_path(folder, "queries"), queries)
        asked = folder / "retrieve.queries" / UNITS / "unit-00000"
        asked.mkdir(parents=True)
        write_questions(asked, [{"id": str(n), "text": ""} for n in range(len(queries))], queries)
        del rows
        seconds, memory = {}, {}
        for step in STEPS:
            noted = folder / f"memory-{step}"
            noted.mkdir()
            command = through(noted, [sys.executable, "-m", "rag_hpc.eval.bench.vectors.million", step, str(folder)])
            begun = time.monotonic()
            subprocess.run(["mpirun", *_flags(), "-n", str(num_ranks), *command], check=True, env=_environment())
            seconds[step], memory[step] = time.monotonic() - begun, sum(peaks(noted)) / 2**30
        told = json.loads((folder / "told.json").read_text())
    worst = max(memory, key=lambda step: memory[step])
    times = ", ".join(f"{step} {seconds[step]:.0f} s {memory[step]:.2f} GiB" for step in STEPS)
    return [
        Row(
            name="vectors.million",
            ours=memory[worst],
            unit="GiB, all ranks",
            bar=LIMIT_GIB,
            less_is_better=True,
            note=f"{ROWS:,} x {DIMS}, {SETTINGS['index']} in {SHARDS} shards, {num_ranks} ranks; {times}; recall@10 "
            f"{told['recall']:.4f} over {told['asked']} questions at {told['rate']:.0f} q/s; {cpu_class()}",
        )
    ]


def _flags() -> list[str]:
    return ["--allow-run-as-root", "--oversubscribe"]


def _environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **one, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}


def main(step: str, place: str) -> None:
    """Be a rank of one step."""
    from rag_hpc.core.comm import MpiComm
    from rag_hpc.eval.bench.vectors import ranks

    comm = MpiComm()
    try:
        ranks.work(step, Path(place), SETTINGS, comm)
    except Exception as error:  # noqa: BLE001  (the others would wait in a collective for ever)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        comm.abort(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
