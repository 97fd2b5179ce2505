"""Stages run in this process through the contract's own steps, for tests of stages: yours as well as ours.

    def test_words_are_the_same_for_any_p(tmp_path: Path) -> None:
        inputs = {"clean": run_stage(make_stage("clean", {}), crawled, tmp_path)}
        assert same_for_any_p(Words(WordsConfig()), inputs, tmp_path / "any").total("items_out") == 3

What a stage raises is raised here, where a worker would note it down and try the unit again.
"""

from __future__ import annotations

import copy
import random
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_hpc.core import commit, manifest
from rag_hpc.core.failures import record_failure
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.ledger import Ledger, Request, Submission
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan
from rag_hpc.core.planner import check_conservation, make_plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.record import Meter, where
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Unit
from rag_hpc.errors import CorruptOutput
from rag_hpc.schema import to_plain
from rag_hpc.stages.registry import make_stage

__all__ = ["make_stage", "run_stage", "same_for_any_p"]


def run_stage(
    stage: Stage, inputs: Inputs, run_dir: Path, *, p: int = 1, seed: int = 0, fail: Iterable[int] = ()
) -> Manifest:
    """Return the published output of a stage after p workers, each with a copy of it, ran the units of their stripes.

    seed: the units are run in an order shuffled by it; 0 leaves them in order, one worker after another.
    fail: indices of units that are quarantined instead of run, as many as are allowed.
    """
    failing = set(fail)
    inputs = inputs_of(stage, inputs)
    plan = open_stage(stage, inputs, run_dir, p, len(failing))
    for index in failing:
        record_failure(run_dir / plan.folder, plan.units[index], RuntimeError("made to fail"), submission=1)
    units = sorted((unit for unit in plan.units if unit.index not in failing), key=lambda unit: unit.index % p)
    if seed:
        random.Random(seed).shuffle(units)
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as scratch:
        workers: dict[int, tuple[Stage, Context]] = {}
        try:
            for unit in units:
                index = unit.index % p
                if index not in workers:
                    ctx = Context(inputs=inputs, shared=run_dir, scratch=Path(scratch) / str(index))
                    ctx.scratch.mkdir()
                    workers[index] = copy.deepcopy(stage), ctx
                    workers[index][0].setup(ctx)
                _attempt(plan, unit, index, workers[index])
        finally:
            for worker, _ in workers.values():
                worker.close()
    return close_stage(stage, plan, inputs, run_dir)


def same_for_any_p(stage: Stage, inputs: Inputs, folder: Path, ps: Sequence[int] = (1, 2, 7)) -> Manifest:
    """Return a stage's output, which is the same for each number of workers, and for the units in another order.

    Raises CorruptOutput that names the first file that is not.
    """
    first, *others = (run_stage(stage, inputs, folder / f"p{p}", p=p, seed=p - 1) for p in ps)
    for p, other in zip(ps[1:], others, strict=True):
        if other.output_hash != first.output_hash:
            pairs = zip(first.units, other.units, strict=True)
            one, two = next(pair for pair in pairs if pair[0] != pair[1])
            names = sorted({*one["files"], *two["files"]})
            parts = [name for name in names if one["files"].get(name) != two["files"].get(name)] or ["the counts"]
            raise CorruptOutput(
                f"{stage.name}: {parts[0]} of unit {one['index']} differs between p={ps[0]} and p={p}; its bytes may "
                "depend on the unit's inputs and the settings only: on no clock, host, rank, draw or order of a set"
            )
    return first


def inputs_of(stage: Stage, inputs: Inputs) -> Inputs:
    """Return those of the inputs that the stage needs or wants."""
    return {name: found for name, found in inputs.items() if name in (*stage.needs, *stage.wants)}


def open_stage(stage: Stage, inputs: Inputs, run_dir: Path, p: int, allow_failed_units: int = 0) -> Plan:
    """Return the plan of a stage, whose folder is there to take units."""
    policy = Policy(max_attempts=1, allow_failed_units=allow_failed_units)
    submission = alone(run_dir, stage.name, to_plain(stage.config), workers=p, policy=policy)
    plan = make_plan(stage, inputs_of(stage, inputs), submission)
    (run_dir / plan.folder / commit.UNITS).mkdir(parents=True, exist_ok=True)
    return plan


def alone(run_dir: Path, stage: str, settings: Mapping[str, Any], **more: Any) -> Submission:
    """Return a submission of one stage that is not written down; `more` holds other fields of its Request."""
    fields = {"run": run_dir.name, "number": 1, "workers": 1, "cluster": {}, **more}
    return Submission(Ledger(run_dir), Request(stages=[stage], settings={stage: dict(settings)}, **fields))


def close_stage(stage: Stage, plan: Plan, inputs: Inputs, run_dir: Path) -> Manifest:
    """Return the published manifest of a stage whose units are all there."""
    built = manifest.build(plan, run_dir / plan.folder)
    check_conservation(built, inputs)
    manifest.publish(built)
    return manifest.load(run_dir / plan.folder)


def _attempt(plan: Plan, unit: Unit, index: int, worker: tuple[Stage, Context]) -> None:
    stage, ctx = worker
    ctx.seed = seed_of(plan.fingerprint, unit.name)
    draft = commit.open_draft(ctx.shared / plan.folder / commit.UNITS, commit.draft_name(unit, 1, index, 0))
    meter = Meter()
    counts = stage.run(unit, draft, ctx)
    identity = {"run": plan.run, "stage": plan.stage, "attempt": 1, "rank": 0, "submission": 1, "p": plan.workers}
    if commit.commit(draft, unit, counts, meter, {**identity, "setup_s": 0.0, **where(time.time())}) is None:
        raise CorruptOutput(f"{draft.parent}: {unit.name} was there already; give each run a folder of its own")
