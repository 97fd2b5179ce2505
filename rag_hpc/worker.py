"""The one entry of every job: `python -m rag_hpc.worker PLAN INDEX`. Reads the plan, runs units, commits them.

INDEX is the array task's number, or the word `rank` under torchrun and MPI. Exit codes: 0 nothing left to do,
1 a unit failed, 2 the job cannot run as configured, 3 stopped by a signal or the walltime with work left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core import commit, manifest
from rag_hpc.core.comm import Comm, make_comm
from rag_hpc.core.failures import num_failures, record_failure
from rag_hpc.core.fs import drop_dir
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.log import configure
from rag_hpc.core.plan import Plan, read_plan, run_dir_of
from rag_hpc.core.record import Meter, where
from rag_hpc.core.stage import Context, Stage, Unit
from rag_hpc.core.take import Taker
from rag_hpc.errors import Interrupted, RagHpcError
from rag_hpc.stages.registry import make_stage

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Worker:
    """One process working through a plan."""

    def __init__(self, plan: Plan, run_dir: Path, index: int, comm: Comm, stop: Callable[[], bool]) -> None:
        self.plan, self.run_dir, self.index, self.comm, self.stop = plan, run_dir, index, comm, stop
        self.world_size = comm.world_size if comm.world_size > 1 else plan.workers
        self.stage: Stage = make_stage(plan.stage, plan.config)
        self.stage_dir = run_dir / plan.folder
        self.units_dir = self.stage_dir / commit.UNITS
        self.setup_s = 0.0
        self.num_failed = 0

    def work(self, started: float) -> int:
        """Run units until none is left for this worker; return the exit code. `started`: time.monotonic()."""
        self.units_dir.mkdir(parents=True, exist_ok=True)
        commit.sweep(self.units_dir, submission=self.plan.submission, worker=self.index)
        with scratch_folder() as scratch:
            ctx = self._context(scratch)
            units = self._to_do()
            try:
                for number, unit in enumerate(units):
                    if number == 0:
                        self.stage.setup(ctx)
                        self.setup_s = time.monotonic() - started
                    ctx.check_stop()
                    self._attempt(unit, ctx)
            except Interrupted as error:
                log.warning("%s: %s", self.plan.stage, error)
                return error.exit_code
        return 1 if self.num_failed else 0

    def _to_do(self) -> Iterable[Unit]:
        """Ranks of a collective stage must agree on the units; each of the others takes its own."""
        if not self.stage.collective:
            return Taker(self.plan, self.stage_dir, self.index, self.world_size)
        done = commit.committed(self.units_dir) if self.comm.rank == 0 else set()
        flags = np.array([unit.index in done for unit in self.plan.units], dtype=np.uint8)
        agreed = self.comm.broadcast(flags)
        return [unit for unit, flag in zip(self.plan.units, agreed, strict=True) if not flag]

    def _attempt(self, unit: Unit, ctx: Context) -> None:
        ctx = dataclasses.replace(ctx, seed=seed_of(self.plan.fingerprint, unit.name))
        publishes = not self.stage.collective or self.comm.rank == 0
        name = commit.draft_name(unit, self.plan.submission, self.index, int(os.environ.get("SLURM_RESTART_COUNT", 0)))
        draft = commit.open_draft(self.units_dir if publishes else ctx.scratch, name)
        log.info("%s %s begins", self.plan.stage, unit.name)
        meter = Meter()
        try:
            counts = self.stage.run(unit, draft, ctx)
            meter.work_done()
            won = commit.commit(draft, unit, counts, meter, self._identity(unit)) if publishes else None
        except Interrupted:
            drop_dir(draft)
            raise
        except Exception as error:
            self._failed(unit, draft, error)
        else:
            log.info("%s %s %s: %d in, %d out, %.2f s", self.plan.stage, unit.name,
                     "committed" if won else "done" if not publishes else "was committed by another attempt",
                     counts.items_in, counts.items_out, meter.work_s)
        finally:
            if not publishes:
                drop_dir(draft)

    def _failed(self, unit: Unit, draft: Path, error: Exception) -> None:
        drop_dir(draft)
        if self.stage_dir.exists():
            attempt = record_failure(self.stage_dir, unit, error, submission=self.plan.submission)
            log.exception("%s %s failed (attempt %d)", self.plan.stage, unit.name, attempt)
        self.num_failed += 1
        abort = getattr(self.comm, "abort", None)
        if self.comm.world_size > 1 and self.stage.collective:
            logging.shutdown()
            if abort is not None:
                abort(1)  # the other ranks wait in a collective that this one will never join
            os._exit(1)

    def _identity(self, unit: Unit) -> dict[str, Any]:
        attempt = num_failures(self.stage_dir, unit) + 1
        return {"run": self.plan.run, "stage": self.plan.stage, "attempt": attempt, "rank": self.comm.rank,
                "submission": self.plan.submission, "p": self.world_size, "setup_s": round(self.setup_s, 4), **where()}

    def _context(self, scratch: Path) -> Context:
        inputs = {name: manifest.load(self.run_dir / folder) for name, folder in self.plan.inputs.items()}
        return Context(inputs=inputs, rank=self.comm.rank, world_size=self.comm.world_size, comm=self.comm,
                       shared=self.run_dir, scratch=scratch, stop_requested=self.stop, log=log)


def main(argv: list[str] | None = None) -> int:
    """Run one worker; return the process's exit code."""
    started = time.monotonic()
    os.environ.setdefault("RAG_HPC_STARTED_UNIX", str(time.time()))
    os.umask(0o077)
    plan_path, index = (argv or sys.argv[1:])[:2]
    configure(prefix=f"{index}@{os.uname().nodename}")
    stop = StopFlag(walltime_left(started))
    try:
        plan = read_plan(Path(plan_path))
        comm = make_comm(os.environ.get("RAG_HPC_LAUNCH", "array"))
        number = comm.rank if index == "rank" else int(index)
        agree_on_plan(plan, comm)
        code = Worker(plan, run_dir_of(Path(plan_path)), number, comm, stop).work(started)
        comm.close()
        return code
    except RagHpcError as error:
        log.error("%s", error)
        return error.exit_code


class StopFlag:
    """True once a signal came or the deadline (time.monotonic seconds) passed."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline, self._signalled = deadline, False
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signalled = True

    def __call__(self) -> bool:
        return self._signalled or (self._deadline is not None and time.monotonic() >= self._deadline)


def walltime_left(started: float) -> float | None:
    """Return the monotonic time at which to stop: walltime minus margin, both set by the launcher in seconds."""
    walltime = os.environ.get("RAG_HPC_WALLTIME_S")
    if not walltime:
        return None
    margin = float(os.environ.get("RAG_HPC_WALLTIME_MARGIN_S", "60"))
    return started + max(1.0, float(walltime) - min(margin, 0.5 * float(walltime)))


def agree_on_plan(plan: Plan, comm: Comm) -> None:
    """Raise RagHpcError unless every rank has read the same plan (a stale NFS cache shows here, not in the output)."""
    mine = np.array([int(plan.fingerprint[:8], 16), len(plan.units), plan.submission], dtype=np.int64)
    if not np.array_equal(comm.broadcast(mine), mine):
        raise RagHpcError(f"rank {comm.rank} reads another plan than rank 0; is the run's folder on a shared filesystem?")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a node-local folder and remove it afterwards."""
    base = os.environ.get("RAG_HPC_SCRATCH") or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix="rag-hpc-", dir=base if base and Path(base).is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
