"""Small stages for the tests: they go through the real plan, worker, commit and manifest code."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.core import commit, manifest
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.ledger import Ledger, Request, Submission
from rag_hpc.core.plan import Plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.stage import Context, Inputs, Launch, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.launchers import local
from rag_hpc.launchers.advance import advance

NUMBERS, NOTE = "numbers.bin", "note.txt"
ENTRIES = {
    "toy.source": "toystages:Source",
    "toy.double": "toystages:Double",
    "toy.leak": "toystages:Leak",
    "toy.gather": "toystages:Gather",
    "toy.each": "toystages:Each",
}


@dataclass(kw_only=True)
class ToyConfig:
    """Settings of all toy stages."""

    num_units: int = 5
    rows: int = 20  # numbers of a unit
    scale: int = 2
    max_ms: int = field(default=0, metadata={"output": False})  # longest random duration of a unit
    trouble: str = field(default="", metadata={"output": False})  # folder; see `make_trouble`


class Toy(Stage):
    """What the toy stages share: a file written step by step through `os`, so that each step can be made to fail."""

    Config: ClassVar[type] = ToyConfig
    version = 1

    def finish(self, unit: Unit, out: Path, numbers: Any, ctx: Context) -> Counts:
        self.make_trouble(unit, ctx)
        kept = [int(n) for n in numbers if n % 7]
        write_slowly(out / NUMBERS, np.array(kept, dtype=np.int64).tobytes())
        write_slowly(out / NOTE, f"{unit.name} {len(kept)}\n".encode())
        dropped = {"multiple-of-7": len(numbers) - len(kept)}
        return Counts(items_in=len(numbers), items_out=len(kept), dropped=dropped, extra={"sum": float(sum(kept))})

    def make_trouble(self, unit: Unit, ctx: Context) -> None:
        """A file called like the unit in the folder `trouble` says what happens.

        "-once" removes it first, and of several attempts at once it happens to the one that did; "wait" goes on when
        somebody else has removed it.
        """
        end = time.monotonic() + random.SystemRandom().random() * self.config.max_ms / 1000
        while time.monotonic() < end:
            ctx.check_stop()
            time.sleep(0.005)
        note = Path(self.config.trouble) / unit.name
        if not self.config.trouble:
            return
        try:
            what = note.read_text()
            if what.endswith("-once"):
                note.unlink()
        except FileNotFoundError:
            return
        if what.startswith("fail"):
            raise ValueError(f"no luck with {unit.name}")
        if what.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        while what.startswith("hang") or (what == "wait" and note.exists()):
            ctx.check_stop()
            time.sleep(0.01)


class Source(Toy):
    """Makes numbers out of the unit's seed."""

    name = "toy.source"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        return [Unit(i, {"rows": self.config.rows + i}) for i in range(self.config.num_units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        rng = np.random.default_rng(ctx.seed)
        return self.finish(unit, out, rng.integers(0, 1000, unit.inputs["rows"]), ctx)


class Double(Toy):
    """Multiplies the source's numbers, a unit for a unit."""

    name = "toy.double"
    needs = ("toy.source",)
    counts_from = "toy.source"

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        return [Unit(i, {"unit": unit["index"]}) for i, unit in enumerate(inputs["toy.source"].units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        return self.finish(unit, out, read_unit(ctx.inputs["toy.source"], unit.inputs["unit"]) * self.config.scale, ctx)


class Leak(Double):
    """Loses a number of each unit without a word."""

    name = "toy.leak"

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        return self.finish(unit, out, read_unit(ctx.inputs["toy.source"], unit.inputs["unit"])[1:], ctx)


class Gather(Toy):
    """All ranks work on each unit, uneven parts; rank 0 writes."""

    name = "toy.gather"
    launch = Launch.mpi
    collective = True

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        return [Unit(i, {"rows": self.config.rows + i}) for i in range(self.config.num_units)]

    def setup(self, ctx: Context) -> None:
        self.offset = int(ctx.comm.broadcast(np.array([7]) if ctx.rank == 0 else None)[0])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        if ctx.rank == ctx.world_size - 1:
            self.make_trouble(unit, ctx)
        edges = np.linspace(0, 1, ctx.world_size + 1) ** 2 * unit.inputs["rows"]  # the last rank has most of the rows
        mine = np.arange(int(edges[ctx.rank]), int(edges[ctx.rank + 1]), dtype=np.int64) + self.offset
        joined, total = ctx.comm.gather_rows(mine), ctx.comm.sum(np.array([mine.sum()]))
        if joined is None:
            return Counts()
        assert joined.sum() == total[0]
        calm = dataclasses.replace(self.config, trouble="", max_ms=0)
        return Gather(calm).finish(unit, out, joined, ctx)


class Each(Source):
    """Ranks take units of their own, after a setup that all of them must join."""

    name = "toy.each"
    launch = Launch.torchrun

    def setup(self, ctx: Context) -> None:
        self.offset = int(ctx.comm.broadcast(np.array([7]) if ctx.rank == 0 else None)[0])


def read_unit(found: manifest.Manifest, index: int) -> Any:
    """Return the numbers of a unit."""
    return np.frombuffer(found.file(index, NUMBERS).read_bytes(), dtype=np.int64)


def write_slowly(path: Path, data: bytes) -> None:
    """Write the file in two steps."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            os.write(descriptor, part)
    finally:
        os.close(descriptor)


def toy_request(
    run: str, stages: tuple[str, ...] = ("toy.source", "toy.double"), workers: int = 2, **settings: Any
) -> Request:
    """Return a request over toy stages; `settings` are of ToyConfig or, with the same name, of Request or Policy."""
    own = {f.name for f in dataclasses.fields(Request)} & set(settings)
    policy = {f.name: settings.pop(f.name) for f in dataclasses.fields(Policy) if f.name in settings}
    plain = dataclasses.asdict(ToyConfig(**{k: v for k, v in settings.items() if k not in own}))
    return Request(
        run=run,
        number=0,
        stages=list(stages),
        settings=dict.fromkeys(stages, plain),
        workers=workers,
        cluster={"launcher": "local"},
        policy=Policy(**policy),
        **{name: settings[name] for name in own},
    )


def new_ledger(run_dir: Path) -> Ledger:
    """Return the ledger of a run that exists."""
    ledger = Ledger(run_dir)
    ledger.create({})
    return ledger


def work(plan: Plan, run_dir: Path, index: int = 0, stop: Any = lambda: False) -> int:
    """Run one worker in this process; return its exit code."""
    from rag_hpc.worker import Worker

    return Worker(plan, run_dir, index, SerialComm(), stop).work(time.monotonic())


def run_inline(submission: Submission) -> dict[str, manifest.Manifest]:
    """Run all stages by a worker in this process; return the manifests by stage."""
    found: dict[str, manifest.Manifest] = {}

    def keep(one: manifest.Manifest) -> None:
        found[one.stage] = one

    while (plan := advance(submission, on_close=keep).open_plan) is not None:
        if work(plan, submission.run_dir):
            advance(submission)  # raises what there is to say
            raise AssertionError("a worker failed, and yet the stage went on")
    return found


def stage_bytes(stage_dir: Path) -> dict[str, bytes]:
    """Return all that a finished stage promises: the manifest and its units' files, without the records."""
    units = stage_bytes_of_units(stage_dir / commit.UNITS)
    return {**units, manifest.MANIFEST: (stage_dir / manifest.MANIFEST).read_bytes()}


def stage_bytes_of_units(units_dir: Path) -> dict[str, bytes]:
    """Return the files of committed units without their records."""
    paths = sorted(p for p in units_dir.glob("unit-*/*") if p.name != commit.RECORD)
    return {str(p.relative_to(units_dir)): p.read_bytes() for p in paths}


_real_commands = local.worker_commands


def worker_commands(launch: Launch, path: Path, workers: int) -> list[list[str]]:
    """Return the launcher's commands with the tests' entry, which knows the toy stages, in place of the worker module.

    The entry is not imported here: it adds the stages to the registry of its process for good.
    """
    entry = str(Path(__file__).with_name("toyworker.py").resolve())
    return [
        " ".join(command).replace("-m rag_hpc.worker", entry).split(" ")
        for command in _real_commands(launch, path, workers)
    ]
