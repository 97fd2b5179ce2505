"""Peak memory of dedup's workers and ranks, each step run as its own processes through the worker's entry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.core.job import JobEnv
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path, write_plan
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import MissingDependency, RagHpcError
from rag_hpc.eval.bench import peak
from rag_hpc.eval.bench.dedup.given import DEDUP, GivenConfig
from rag_hpc.inline import close_stage, make_stage, open_stage, run_stage
from rag_hpc.stages.dedup.signed import BANDS, PAIR, VERIFIED

LINKED_PER_UNIT = 50_000


def dedup_peaks(
    run_dir: Path, found: dict[str, Manifest], settings: Mapping[str, Any], p: int, steps: Sequence[str] = DEDUP
) -> dict[str, int]:
    """Return, by step, the bytes of its largest of p workers or ranks, run over what is `found`.

    That holds the clean stage's output; what the steps put out is added.
    """
    open_run(run_dir, found)
    return {name: step_peak(run_dir, make_stage(name, dict(settings)), found, p) for name in steps}


def linked_peak(run_dir: Path, found: Mapping[str, Manifest], p: int) -> int:
    """Return the bytes of the largest of p ranks that linked what the earlier steps put out."""
    inputs = {name: found[name] for name in ("dedup.sign", "dedup.verify")}
    return dedup_peaks(run_dir, inputs, {}, p, steps=["dedup.link"])["dedup.link"]


def open_run(run_dir: Path, found: Mapping[str, Manifest]) -> None:
    """Make the folder of a run that has these outputs of stages."""
    run_dir.mkdir()
    for output in found.values():
        (run_dir / output.folder.name).symlink_to(output.folder)


def index_peak(run_dir: Path, documents: Manifest) -> int:
    """Return the bytes of a process with datasketch's index over the documents."""
    run_dir.mkdir()
    peer = [sys.executable, "-m", "rag_hpc.eval.bench.dedup.index_peer", str(documents.folder)]
    subprocess.run(peak.through(run_dir, peer), env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return max(peak.peaks(run_dir))


def step_peak(run_dir: Path, stage: Stage, found: dict[str, Manifest], p: int) -> int:
    """Return the bytes of the largest of p processes that ran the step; its manifest is added to `found`."""
    plan = open_stage(stage, found, run_dir, p)
    write_plan(plan_path(run_dir, 1, stage.name), plan)
    notes = run_dir / f"peaks-{stage.name}"
    notes.mkdir()
    run_processes(run_dir, plan, notes, (p, stage.launch))
    found[stage.name] = close_stage(stage, plan, found, run_dir)
    return max(peak.peaks(notes))


def run_processes(run_dir: Path, plan: Plan, notes: Path, launch: tuple[int, Launch]) -> None:
    """Start p workers, or one mpirun with p ranks, and wait for them. Raises RagHpcError when one fails."""
    p, kind = launch
    worker = [sys.executable, "-m", "rag_hpc.worker", str(plan_path(run_dir, 1, plan.stage))]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    commands = [peak.through(notes, [*worker, str(index)]) for index in range(1 if kind is Launch.mpi else p)]
    told = JobEnv(num_workers=len(commands))
    if kind is Launch.mpi and p > 1:
        commands = [[*mpirun(), "-n", str(p), *peak.through(notes, [*worker, "rank"])]]
        told = JobEnv(launch="mpi", world_size=p)
    env |= {**told.to_env(), "OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE) for command in commands]
    said = [child.communicate()[1].decode(errors="replace") for child in children]
    for child, text in zip(children, said, strict=True):
        if child.returncode:
            raise RagHpcError(f"{plan.stage}: exit code {child.returncode}: {text[-2000:]}")


def mpirun() -> list[str]:
    """Return the command of an Open MPI here. Raises MissingDependency when there is none."""
    found = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise MissingDependency("this part measures ranks of an MPI job; run: pip install 'rag-hpc[mpi]'")
    return [found, *(["--allow-run-as-root"] if os.geteuid() == 0 else []), "--oversubscribe"]


def link_peaks(run_dir: Path, num_docs: int, p: int) -> int:
    """Return the bytes of the largest of p ranks that linked made-up pairs over so many documents."""
    run_dir.mkdir()
    found = {"dedup.sign": run_stage(Signed(num_docs), {}, run_dir)}
    found["dedup.verify"] = run_stage(Verified(num_docs), found, run_dir)
    return step_peak(run_dir, make_stage("dedup.link", {}), found, p)


class Signed(Stage):
    """Stands in for dedup.sign: names of documents, without keys."""

    Config: ClassVar[type] = GivenConfig
    name = "dedup.sign"
    version = 1

    def __init__(self, num_docs: int) -> None:
        super().__init__(GivenConfig())
        self._num_docs = num_docs

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return units of LINKED_PER_UNIT documents."""
        return [Unit(i, {"start": start}) for i, start in enumerate(range(0, self._num_docs, LINKED_PER_UNIT))]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write bands.parquet with the names alone."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        start = unit.inputs["start"]
        names = [f"https://host-{n % 997}.example/page-{n:010d}" for n in range(start, start + LINKED_PER_UNIT)]
        pq.write_table(pa.table({"doc_id": names}), out / BANDS)
        return Counts(items_in=len(names), items_out=len(names))


class Verified(Signed):
    """Stands in for dedup.verify: a third of the documents have an earlier duplicate, near or far."""

    name = "dedup.verify"

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write verified.npy."""
        start, rng = unit.inputs["start"], np.random.default_rng(unit.index)
        second = np.flatnonzero(rng.random(LINKED_PER_UNIT) < 1 / 3) + start
        second = second[second > 0]
        pairs = np.zeros(len(second), dtype=PAIR)
        pairs["first"], pairs["second"] = (rng.random(len(second)) * second).astype(np.int64), second
        np.save(out / VERIFIED, pairs, allow_pickle=False)
        return Counts(items_in=len(pairs), items_out=len(pairs))
