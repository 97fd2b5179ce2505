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
from rag_hpc.core.manifest import MANIFEST, Manifest
from rag_hpc.core.plan import Plan, plan_path, read_plan, write_plan
from rag_hpc.core.planner import Submission, check_conservation, make_plan
from rag_hpc.core.stage import Stage
from rag_hpc.errors import IncompleteError, Interrupted
from rag_hpc.launchers.ledger import Ledger, Request
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


def advance(ledger: Ledger, request: Request, on_close: Callable[[Manifest], None] | None = None) -> Progress:
    """Close what is complete and plan what can be planned; return the first stage that has units left.

    Raises UnitFailed or CorruptOutput when a stage cannot be closed.
    """
    progress = Progress()
    done: dict[str, Manifest] = {}
    for name in request.stages:
        stage = make_stage(name, request.settings[name])
        plan = plan_stage(ledger, request, stage, done)
        stage_dir = ledger.run_dir / plan.folder
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


def plan_stage(ledger: Ledger, request: Request, stage: Stage, done: dict[str, Manifest]) -> Plan:
    """Return the stage's plan in this submission, writing it if its inputs exist and it is not there yet."""
    path = plan_path(ledger.run_dir, request.number, stage.name)
    if path.exists():
        return read_plan(path)
    inputs = {name: done[name] for name in (*stage.needs, *stage.wants) if name in done}
    missing = [name for name in stage.needs if name not in done]
    if missing:
        raise IncompleteError(f"{stage.name}: needs {', '.join(missing)}, which the pipeline does not run before it")
    plan = make_plan(stage, request.settings[stage.name], inputs, ledger.run_dir, _shared(request))
    write_plan(path, plan)
    units_dir = ledger.run_dir / plan.folder / commit.UNITS
    with naming_disk(units_dir):
        units_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        commit.sweep(units_dir, submission=request.number)
    return plan


def close(plan: Plan, stage: Stage, stage_dir: Path, done: dict[str, Manifest]) -> Manifest:
    """Return the stage's manifest, building and publishing it if all units are there; IncompleteError otherwise."""
    if (stage_dir / MANIFEST).exists():
        return manifest.load(stage_dir)
    begun = time.monotonic()
    found = manifest.build(plan, stage_dir)
    check_conservation(stage, found, done)
    manifest.publish(found)
    log.info("%s closed: %d units, %d in, %d out, verified in %.2f s", stage.name, len(found.units),
             found.total("items_in"), found.total("items_out"), time.monotonic() - begun)
    return found


def _shared(request: Request) -> Submission:
    return Submission(run=request.run, number=request.number, workers=request.workers,
                      max_attempts=request.max_attempts, allow_failed_units=request.allow_failed_units,
                      backup_after_s=request.backup_after_s)
