"""Going on: close every stage that is complete, plan the next, and say which stage has work left.

This is all that a gate job does, and the same is done before a submission and after each local stage. It is stateless
and may be repeated or run twice at once: plans and manifests are published once, with bytes that do not differ.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core import commit, manifest
from rag_hpc.core.fs import naming_disk
from rag_hpc.core.ledger import Ledger, Submission
from rag_hpc.core.manifest import MANIFEST, Manifest
from rag_hpc.core.plan import Plan, read_plan, write_plan
from rag_hpc.core.planner import check_conservation, make_plan
from rag_hpc.core.stage import Stage
from rag_hpc.errors import CorruptOutput, IncompleteError, Interrupted
from rag_hpc.stages.registry import make_stage

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a submission is."""

    finished: list[str] = field(default_factory=list)
    open_plan: Plan | None = None  # of the first stage with units left; None when all is done

    @property
    def stage(self) -> str | None:
        """The stage that is to run next."""
        return self.open_plan.stage if self.open_plan else None


def advance(submission: Submission, on_close: Callable[[Manifest], None] | None = None) -> Progress:
    """Close what is complete and plan what can be planned; return the first stage that has units left.

    Raises UnitFailed or CorruptOutput when a stage cannot be closed.
    """
    progress = Progress()
    done: dict[str, Manifest] = {}
    for name in submission.request.stages:
        stage = make_stage(name, submission.request.settings[name])
        plan = plan_stage(submission, stage, done)
        stage_dir = submission.run_dir / plan.folder
        try:
            found = close(plan, stage, stage_dir, done)
        except Interrupted:  # an IncompleteError too, but about this process
            raise
        except IncompleteError:
            progress.open_plan = plan
            return progress
        done[name] = found
        progress.finished.append(name)
        if on_close:
            on_close(found)
    return progress


def foresee(submission: Submission, shared: Path) -> Progress:
    """Return what `advance` would come to now; nothing is written, but what a source lists goes to the folder `shared`.

    Raises what planning a stage raises.
    """
    progress = Progress()
    done: dict[str, Manifest] = {}
    for name in submission.request.stages:
        stage = make_stage(name, submission.request.settings[name])
        inputs = {need: done[need] for need in (*stage.needs, *stage.wants) if need in done}
        plan = make_plan(stage, inputs, Submission(Ledger(shared), submission.request))
        found = _finished(plan, submission.run_dir / plan.folder)
        if found is None:
            progress.open_plan = plan
            return progress
        done[name] = found
        progress.finished.append(name)
    return progress


def _finished(plan: Plan, stage_dir: Path) -> Manifest | None:
    """Return the manifest that the stage has or would get; None when units are left, or what is there is damaged."""
    try:
        found = manifest.load(stage_dir) if (stage_dir / MANIFEST).exists() else manifest.build(plan, stage_dir)
    except (IncompleteError, CorruptOutput):
        return None
    return None if found.flaws() else found


def plan_stage(submission: Submission, stage: Stage, done: dict[str, Manifest]) -> Plan:
    """Return the stage's plan in the submission, writing it if its inputs exist and it is not there yet."""
    path = submission.plan_path(stage.name)
    if path.exists():
        return read_plan(path, submission.request.settings[stage.name])
    inputs = {name: done[name] for name in (*stage.needs, *stage.wants) if name in done}
    missing = [name for name in stage.needs if name not in done]
    if missing:
        raise IncompleteError(f"{stage.name}: needs {', '.join(missing)}, which the pipeline does not run before it")
    plan = make_plan(stage, inputs, submission)
    for line in manifest.take_back(submission.run_dir / plan.folder):
        log.warning("%s: %s", stage.name, line)
    write_plan(path, plan)
    units_dir = submission.run_dir / plan.folder / commit.UNITS
    with naming_disk(units_dir):
        units_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        commit.sweep(units_dir, submission=submission.number)
    return plan


def close(plan: Plan, stage: Stage, stage_dir: Path, done: dict[str, Manifest]) -> Manifest:
    """Return the stage's manifest, building and publishing it if all units are there; IncompleteError otherwise."""
    if (stage_dir / MANIFEST).exists():
        return manifest.load(stage_dir)
    begun = time.monotonic()
    found = manifest.build(plan, stage_dir)
    check_conservation(found, done)
    manifest.publish(found)
    counts = len(found.units), found.total("items_in"), found.total("items_out")
    log.info("%s closed: %d units, %d in, %d out, verified in %.2f s", stage.name, *counts, time.monotonic() - begun)
    return found
