"""Plans: immutable, numbered files that list a stage's units. A queued job never sees its plan change."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, publish_file, read_json
from rag_hpc.core.stage import Unit
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
    max_attempts: int = 3
    allow_failed_units: int = 0
    backup_after_s: float = 60.0  # a begun unit older than this (and 3 x the median) is backed up by an idle worker
    input_hashes: dict[str, str] = field(default_factory=dict)
    output_config: dict[str, Any] = field(default_factory=dict)  # the part of config that is in the fingerprint

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


def run_handle(run_dir: Path) -> str:
    """Return what names a run on a command line: its name, or its folder where commands would not look for that."""
    if run_dir.resolve().parent == Path("results/runs").resolve():
        return run_dir.name
    return shlex.quote(str(run_dir.resolve()))


def last_used(run_dir: Path) -> tuple[bool, float]:
    """Return what is greatest of the run that was used last; those that never came as far as a plan stand back."""
    folder = run_dir / "submissions"
    return any(folder.glob("*/*.plan.json")), (folder if folder.exists() else run_dir).stat().st_mtime


def write_plan(path: Path, plan: Plan) -> None:
    """Publish the plan; writing the same again is fine, another content is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = canonical_json(dataclasses.asdict(plan))
    if not publish_file(path, data) and path.read_bytes() != data:
        raise ConfigError(f"{path}: a different plan is there already; plans never change, submit again for a new one")


def read_plan(path: Path) -> Plan:
    """Return the plan at `path`."""
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise IncompleteError(
            f"{path}: no such plan; the gate before this stage did not pass. See: rag-hpc why"
        ) from None
    except ValueError as error:
        raise CorruptOutput(f"{path}: not valid JSON ({error}); submit again for a new plan: rag-hpc retry") from None
    units = [Unit(**unit) for unit in values.pop("units")]
    return Plan(units=units, **values)
