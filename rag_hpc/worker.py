"""The one entry of every job: `python -m rag_hpc.worker PLAN INDEX`. Reads the plan, runs units, commits them.

INDEX is the array task's number, or the word `rank` under torchrun and MPI. Exit codes: 0 nothing left to do,
1 a unit failed, 2 the job cannot run as configured, 3 stopped by a signal or the walltime with work left.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.core import commit, manifest
from rag_hpc.core.comm import Comm, SerialComm, make_comm
from rag_hpc.core.failures import num_failures, record_failure
from rag_hpc.core.fs import drop_dir, naming_disk
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.job import JobEnv
from rag_hpc.core.log import configure
from rag_hpc.core.plan import Plan, read_plan, run_dir_of
from rag_hpc.core.record import Meter, where
from rag_hpc.core.scratch import scratch_folder
from rag_hpc.core.stage import Context, Stage
from rag_hpc.core.take import Taker, claim, release
from rag_hpc.core.trust import check_run, umask_of
from rag_hpc.core.unit import Unit
from rag_hpc.errors import ConfigError, DiskError, Interrupted, RagHpcError
from rag_hpc.stages.registry import make_stage, stage_class

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Worker:
    """One process working through a plan."""

    def __init__(self, plan: Plan, run_dir: Path, index: int, comm: Comm, stop: Callable[[], bool]) -> None:
        self.plan, self.run_dir, self.index, self.comm, self.stop = plan, run_dir, index, comm, stop
        self.stage: Stage = make_stage(plan.stage, plan.config)
        self.world_size = comm.world_size if comm.world_size > 1 else num_workers(plan)
        self.stage_dir = run_dir / plan.folder
        self.units_dir = self.stage_dir / commit.UNITS
        self.setup_s, self.started_unix = 0.0, time.time()
        self.num_failed = 0

    def work(self, started: float) -> int:
        """Run units until none is left for this worker; return the exit code. `started`: time.monotonic()."""
        self.started_unix = time.time() - (time.monotonic() - started)
        self.units_dir.mkdir(parents=True, exist_ok=True)
        commit.sweep(self.units_dir, submission=self.plan.submission, worker=self.index)
        stopped = False
        with scratch_folder() as scratch:
            try:
                self._run_units(self._context(scratch), started)
            except Interrupted as error:
                log.warning("%s: %s", self.plan.stage, error)
                stopped = True
                if self.stage.collective:
                    self.comm.abort(error.exit_code)
            finally:
                self.stage.close()
        return self._exit_code(stopped)

    def _run_units(self, ctx: Context, started: float) -> None:
        ready = False
        if self.comm.world_size > 1 and self._any_left():  # together, since a setup may hold collectives
            self.stage.setup(ctx)
            ready = True
        for unit in self._to_do():
            if not ready:
                self.stage.setup(ctx)
                ready = True
                gc.freeze()  # what was imported stays, and need not be looked through again and again
            self.setup_s = self.setup_s or time.monotonic() - started
            ctx.check_stop()
            self._attempt(unit, ctx)

    def _any_left(self) -> bool:
        """Return on every rank whether rank 0 sees units that are not committed."""
        left = {unit.index for unit in self.plan.units} - commit.committed(self.units_dir)
        return bool(self.comm.broadcast(np.array([len(left)], dtype=np.int64))[0])

    def _exit_code(self, stopped: bool) -> int:
        """Return the exit code; ranks leave together, since torchrun stops all of them when one ends with an error."""
        mine = np.array([stopped, self.num_failed], dtype=np.int64)
        any_stopped, num_failed = self.comm.sum(mine)
        if any_stopped:
            return Interrupted.exit_code
        return 1 if num_failed else 0

    def _to_do(self) -> Iterable[Unit]:
        """Ranks of a collective stage must agree on the units; each of the others takes its own."""
        if not self.stage.collective:
            return Taker(
                self.plan, self.stage_dir, self.index, self.world_size, exclusive=self.stage.exclusive, sleep=self._wait
            )
        done = commit.committed(self.units_dir) if self.comm.rank == 0 else set()
        flags = np.array([unit.index in done for unit in self.plan.units], dtype=np.uint8)
        agreed = self.comm.broadcast(flags)
        return [unit for unit, flag in zip(self.plan.units, agreed, strict=True) if not flag]

    def _wait(self, seconds: float) -> None:
        """Sleep, and raise Interrupted when the worker has to stop: it may be waiting for others for long."""
        time.sleep(seconds)
        if self.stop():
            raise Interrupted("stopped by a signal or the walltime while waiting for other workers' units")

    def _attempt(self, unit: Unit, ctx: Context) -> None:
        carry = commit.carry_dir(self.stage_dir, unit)
        ctx = dataclasses.replace(ctx, seed=seed_of(self.plan.fingerprint, unit.name), carry=carry)
        if self.stage.exclusive:
            mine = claim(carry, self.plan.submission, self.index)
            if not mine or unit.index in commit.committed(self.units_dir):  # another was quicker, or is done by now
                return
            commit.sweep(self.units_dir, submission=self.plan.submission)
        publishes = not self.stage.collective or self.comm.rank == 0
        name = commit.draft_name(unit, self.plan.submission, self.index, int(os.environ.get("SLURM_RESTART_COUNT", 0)))
        draft, opened = (self.units_dir if publishes else ctx.scratch) / name, False
        log.info("%s %s begins", self.plan.stage, unit.name)
        meter = Meter()
        try:
            with naming_disk(draft):
                commit.open_draft(draft.parent, name)
                opened = True
                if self.stage.exclusive:
                    claim(carry, self.plan.submission, self.index)
                counts = self.stage.run(unit, draft, ctx)
                meter.work_done()
                won = commit.commit(draft, unit, counts, meter, self._identity(unit)) if publishes else None
        except Interrupted:
            drop_dir(draft)
            raise
        except Exception as error:  # whatever a stage or its libraries raise is this unit's failure
            if opened and not draft.exists() and not isinstance(error, DiskError):
                raise Interrupted(f"{unit.name}: its draft was removed, a later submission took over") from error
            self._failed(unit, draft, error)
        else:
            if publishes and carry.exists():
                drop_dir(carry)
            how = "committed" if won else "done" if not publishes else "was committed by another attempt"
            numbers = counts.items_in, counts.items_out, meter.work_s
            log.info("%s %s %s: %d in, %d out, %.2f s", self.plan.stage, unit.name, how, *numbers)
        finally:
            if not publishes:
                drop_dir(draft)

    def _failed(self, unit: Unit, draft: Path, error: Exception) -> None:
        log.error("%s %s failed: %s: %s", self.plan.stage, unit.name, type(error).__name__, error, exc_info=error)
        self.num_failed += 1
        drop_dir(draft)
        attempt = record_failure(self.stage_dir, unit, error, submission=self.plan.submission)
        if self.stage.exclusive:
            release(commit.carry_dir(self.stage_dir, unit), self.plan.submission)
        log.info("%s %s: attempt %d of %d", self.plan.stage, unit.name, attempt, self.plan.policy.max_attempts)
        if self.stage.collective:
            self.comm.abort(1)

    def _identity(self, unit: Unit) -> dict[str, Any]:
        attempt = num_failures(self.stage_dir, unit) + 1
        return {
            "run": self.plan.run,
            "stage": self.plan.stage,
            "attempt": attempt,
            "rank": self.comm.rank,
            "submission": self.plan.submission,
            "p": self.world_size,
            "setup_s": round(self.setup_s, 4),
            **where(self.started_unix),
        }

    def _context(self, scratch: Path) -> Context:
        inputs = {name: manifest.load(self.run_dir / folder) for name, folder in self.plan.inputs.items()}
        return Context(
            inputs=inputs,
            rank=self.comm.rank,
            world_size=self.comm.world_size,
            comm=self.comm,
            shared=self.run_dir,
            scratch=scratch,
            stop_requested=self.stop,
            log=log,
        )


def main(argv: list[str] | None = None) -> int:
    """Run one worker; return the process's exit code."""
    started = time.monotonic()
    words = sys.argv[1:] if argv is None else argv
    configure(prefix=f"{words[1] if len(words) > 1 else '-'}@{os.uname().nodename}")
    told = JobEnv.from_env()
    stop = StopFlag(told.deadline(started))
    comm: Comm = SerialComm()
    try:
        path, index = parse(words)
        run_dir = run_dir_of(path)
        check_run(run_dir)
        os.umask(umask_of(run_dir))
        plan = read_plan(path)
        comm = make_comm(told.launch, together=stage_class(plan.stage).collective)
        agree_on_plan(plan, comm)
        number = comm.rank if index is None else index
        configure(prefix=f"{number}@{os.uname().nodename}")
        log.info("%s: worker %d, rank %d of %d", plan.stage, number, comm.rank, comm.world_size)
        with naming_disk(path):
            code = Worker(plan, run_dir, number, comm, stop).work(started)
        comm.close()
    except Exception as error:  # a rank that dies alone would leave the others in a collective
        known = isinstance(error, RagHpcError)
        log.error("%s: %s", type(error).__name__, error, exc_info=None if known else error)
        code = error.exit_code if isinstance(error, RagHpcError) else 1
        comm.abort(code)
    return code


def num_workers(plan: Plan) -> int:
    """Return how many lone processes share the plan: the launcher says it, or else it started as many as could help."""
    told = JobEnv.from_env()
    return 1 if told.launch != "array" else told.num_workers or min(plan.workers, len(plan.units))


def parse(words: list[str]) -> tuple[Path, int | None]:
    """Return the plan's path and the worker's index, None for "rank". Raises ConfigError."""
    if len(words) != 2 or not (words[1] == "rank" or words[1].isdigit()):
        raise ConfigError(f"usage: python -m rag_hpc.worker PLAN INDEX|rank, not {' '.join(words)!r}")
    return Path(words[0]), None if words[1] == "rank" else int(words[1])


class StopFlag:
    """True once a signal came or the deadline (time.monotonic seconds) passed."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline, self._signalled = deadline, False
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signalled = True

    def __call__(self) -> bool:
        """Return whether the worker has to stop."""
        return self._signalled or (self._deadline is not None and time.monotonic() >= self._deadline)


def agree_on_plan(plan: Plan, comm: Comm) -> None:
    """Raise RagHpcError unless every rank has read the same plan (a stale NFS cache shows here, not in the output)."""
    mine = np.array([int(plan.fingerprint[:8], 16), len(plan.units), plan.submission], dtype=np.int64)
    if not np.array_equal(comm.broadcast(mine), mine):
        raise RagHpcError(
            f"rank {comm.rank} reads another plan than rank 0; is the run's folder on a filesystem that "
            "all nodes see? Set cluster.root"
        )


if __name__ == "__main__":
    sys.exit(main())
