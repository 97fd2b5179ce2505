"""A run as its files tell it: config, submissions, plans, manifests and records. Nothing here starts work."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core import manifest
from rag_hpc.core.commit import UNITS, committed, read_record
from rag_hpc.core.fs import read_json
from rag_hpc.core.manifest import MANIFEST, Manifest
from rag_hpc.core.plan import Plan, last_used, plan_path, read_plan
from rag_hpc.core.tables import read_table
from rag_hpc.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments


class Results:
    """One run, read lazily. Stages are named in full, steps included: "dedup.sign"."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run_dir.name

    @cached_property
    def _run(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = read_json(self.run_dir / "run.json")
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{self.run_dir}: no readable run.json ({error}); see: rag-hpc status") from None
        return value

    @property
    def config(self) -> dict[str, Any]:
        """The composed config that the run was first asked for with."""
        config: dict[str, Any] = self._run["config"]
        return config

    @property
    def created_unix(self) -> float:
        """When the run was first asked for."""
        return float(self._run["created_unix"])

    @cached_property
    def submissions(self) -> list[dict[str, Any]]:
        """What each submission asked for, oldest first. Raises InputError when there is none."""
        paths = sorted((self.run_dir / "submissions").glob("*/submission.json"))
        if not paths:
            raise InputError(f"{self.run_dir}: nothing was submitted yet; give the rag-hpc run command again")
        return [read_json(path) for path in paths]

    @property
    def submission(self) -> dict[str, Any]:
        """The latest submission."""
        return self.submissions[-1]

    @property
    def stages(self) -> list[str]:
        """The stages of the latest submission, in order."""
        return list(self.submission["stages"])

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The newest plan of each stage that continues the plans chosen before it; stages without one are left out."""
        chosen: dict[str, Plan] = {}
        for stage in self.stages:
            for submission in reversed(self.submissions):
                path = plan_path(self.run_dir, submission["number"], stage)
                if path.exists() and _continues(plan := read_plan(path), chosen):
                    chosen[stage] = plan
                    break
        return chosen

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the finished stages."""
        folders = {stage: self.run_dir / plan.folder for stage, plan in self.plans.items()}
        return {stage: manifest.load(path) for stage, path in folders.items() if (path / MANIFEST).exists()}

    @property
    def unfinished(self) -> list[str]:
        """The stages without a manifest, in order."""
        return [stage for stage in self.stages if stage not in self.manifests]

    def records(self, stage: str) -> list[dict[str, Any]]:
        """Return the records of the stage's committed units, in unit order; it need not be finished."""
        if stage not in self.plans:
            return []
        plan = self.plans[stage]
        units_dir = self.run_dir / plan.folder / UNITS
        done = committed(units_dir)
        return [read_record(units_dir / unit.name) for unit in plan.units if unit.index in done]

    def rows(self, stage: str, name: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of every unit's table `name`, in unit order; none when the stage is not finished."""
        if stage not in self.manifests:
            return []
        return [row for path in self.manifests[stage].files(name) for row in read_table(path, columns).to_pylist()]


def find(root: Path, name: str | None) -> Results:
    """Return the run called `name` (a path also names one), or the one submitted last when it is None."""
    known = sorted((path.parent for path in root.glob("*/run.json")), key=last_used)
    if name is None:
        if not known:
            raise InputError(f"no runs under {root.resolve()}; start one: rag-hpc run")
        return Results(known[-1].resolve())
    path = Path(name) if "/" in name else root / name
    if not (path / "run.json").exists():
        names = ", ".join(p.name for p in known) or "none"
        raise ConfigError(f"no run {name!r} under {root.resolve()}; known: {names}")
    return Results(path.resolve())


def find_baseline(run: Results) -> Results | None:
    """Return the baseline of the same corpus and questions that lies beside the run, None when there is none.

    Of several, the one with the same corpus settings, finished, and asked for last is taken.
    """
    if run.config["pipeline"]["name"] == "baseline":
        return None
    others = [
        Results(path.parent) for path in sorted(run.run_dir.parent.glob("*/run.json")) if path.parent != run.run_dir
    ]
    fitting = [other for other in others if _is_baseline_of(other, run)]
    return max(fitting, key=lambda other: _closeness(other, run), default=None)


def choose_baseline(arguments: Arguments, run: Results) -> Results | None:
    """Return the run that `--baseline` names, else the one found beside the run."""
    given = arguments.values.get("--baseline")
    return find(root_of(arguments), given) if given else find_baseline(run)


def chosen_run(arguments: Arguments) -> Results:
    """Return the run that the arguments name: `run=NAME` or the first word, else the latest."""
    return find(root_of(arguments), arguments.override("run") or next(iter(arguments.words), None))


def root_of(arguments: Arguments) -> Path:
    """Return the folder of runs: `cluster.root`, that of the named cluster's file, or results/runs here."""
    root = arguments.override("cluster.root")
    cluster = arguments.override("cluster")
    if root is None and cluster is not None:
        root = _root_in_file(cluster, arguments.config_dir)
    return Path(root).expanduser() if root else Path("results/runs")


def stage_of(step: str) -> str:
    """Return the stage that a step belongs to: "dedup" for "dedup.sign"."""
    return step.split(".")[0]


def by_stage(steps: Sequence[str]) -> dict[str, list[str]]:
    """Return stage -> its steps, both in the order given."""
    found: dict[str, list[str]] = {}
    for step in steps:
        found.setdefault(stage_of(step), []).append(step)
    return found


def _continues(plan: Plan, chosen: dict[str, Plan]) -> bool:
    """An older submission's plan counts only where it read what the newer ones wrote."""
    return all(name in chosen and chosen[name].folder == folder for name, folder in plan.inputs.items())


def _root_in_file(cluster: str, config_dir: Path | None) -> str | None:
    from omegaconf import OmegaConf

    carried = Path(str(importlib.resources.files("rag_hpc.conf")))
    for folder in (config_dir, carried):
        path = folder / "cluster" / f"{cluster}.yaml" if folder else None
        if path and path.is_file():
            root = OmegaConf.select(OmegaConf.load(path), "root")
            return str(root) if root else None
    raise ConfigError(
        f"cluster={cluster}: no such file in conf/cluster nor under --config-dir; or name cluster.root=DIR"
    )


def _is_baseline_of(other: Results, run: Results) -> bool:
    def asked(results: Results) -> tuple[Any, Any]:
        corpus = results.config["corpus"]
        return corpus["name"], corpus.get("questions")

    return other.config["pipeline"]["name"] == "baseline" and asked(other) == asked(run)


def _closeness(other: Results, run: Results) -> tuple[bool, bool, float]:
    submitted = any((other.run_dir / "submissions").glob("*/submission.json"))
    finished = submitted and not other.unfinished
    return other.config["corpus"] == run.config["corpus"], finished, other.created_unix
