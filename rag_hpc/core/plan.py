"""Plans: immutable, numbered files that list a stage's units. A queued job never sees its plan change."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, publish_file
from rag_hpc.core.policy import Policy, take_policy
from rag_hpc.core.stored import SEAL, read_object, sealed_json, typed
from rag_hpc.core.unit import Unit
from rag_hpc.errors import ConfigError, CorruptOutput, IncompleteError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one submission of one stage is to do. Paths are relative to the run's folder, so that a run can move."""

    run: str
    stage: str
    version: int
    fingerprint: str
    config: dict[str, Any]  # the stage's whole config
    inputs: dict[str, str]  # stage name -> stage folder, relative to the run
    units: list[Unit]
    submission: int
    workers: int
    policy: Policy = field(default_factory=Policy)
    input_hashes: dict[str, str] = field(default_factory=dict)
    output_config: dict[str, Any] = field(default_factory=dict)  # the part of config that is in the fingerprint
    identity: tuple[str, ...] | None = None  # of the stage, for the manifest
    counts_from: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)  # of the stage, for people

    @property
    def folder(self) -> str:
        """The stage's folder inside the run: another fingerprint lies beside it."""
        return stage_folder(self.stage, self.fingerprint)


def stage_folder(stage: str, fingerprint: str) -> str:
    """Return the folder name of a stage's output."""
    return f"{stage}-{fingerprint[:12]}"


def plan_path(run_dir: Path, submission: int, stage: str) -> Path:
    """Return where the plan of `stage` in a submission lies (known before the plan is)."""
    return run_dir / "submissions" / f"{submission:04d}" / f"{stage}.plan.json"


def run_dir_of(path: Path) -> Path:
    """Return the run's folder, given the path of one of its plans."""
    return path.resolve().parents[2]


def write_plan(path: Path, plan: Plan) -> None:
    """Publish the plan; writing the same again is fine, another content is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = sealed_json(dataclasses.asdict(plan))
    if not publish_file(path, data) and path.read_bytes() != data:
        raise ConfigError(f"{path}: a different plan is there already; plans never change, submit again for a new one")


def read_plan(path: Path, settings: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan at `path`. `settings`: of the stage in its submission, so that another run's plan is noticed."""

    def checked(values: dict[str, Any]) -> Plan:
        units, policy = [typed(Unit, unit) for unit in values.pop("units")], take_policy(values)
        plan, number = typed(Plan, {**values, "units": units, "policy": policy}), path.parent.name
        other = settings is not None and canonical_json(settings) != canonical_json(plan.config)
        if other and SEAL in values:  # the archives that we have of version 0.1.0 are not exact there
            raise ValueError("made for other settings than its submission's")
        if path.name != f"{plan.stage}.plan.json" or (number.isdecimal() and int(number) != plan.submission):
            raise ValueError(f"it is of {plan.stage} in submission {plan.submission}")
        return plan

    try:
        return read_object(path, _remedy(path), checked)
    except FileNotFoundError:
        raise IncompleteError(
            f"{path}: no such plan; the gate before this stage did not pass. See: rag-hpc why"
        ) from None


def read_plans(
    run_dir: Path, submission: int, stages: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Plan]:
    """Return those plans of a submission that are there, by stage, in order. `settings`: by stage, the submission's.

    Raises CorruptOutput for a plan that does not fit its submission or the plans before it: another run's, or one of
    them is gone.
    """
    plans: dict[str, Plan] = {}
    for stage in stages:
        path = plan_path(run_dir, submission, stage)
        if not path.exists():
            continue
        plan = read_plan(path, settings[stage])
        for name, folder in plan.inputs.items():
            if name in stages and (name not in plans or plans[name].folder != folder):
                other = plan_path(run_dir, submission, name)
                raise CorruptOutput(f"{path}: it reads {folder}, which {other} does not plan; {_remedy(path)}")
        plans[stage] = plan
    return plans


def _remedy(path: Path) -> str:
    return f"submit again for a new plan: rag-hpc retry run={shlex.quote(str(run_dir_of(path)))}"
