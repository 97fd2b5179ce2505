"""A run as its files tell it: config, submissions, plans, manifests and records. Nothing here starts work."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import name_of, reads_shared, root_of
from rag_hpc.core import manifest
from rag_hpc.core.commit import RECORD, UNITS, committed, read_record
from rag_hpc.core.ledger import Ledger, find_run, known_runs, mend
from rag_hpc.core.manifest import MANIFEST, Manifest, listed
from rag_hpc.core.plan import Plan, read_plans
from rag_hpc.errors import ConfigError, CorruptOutput, RagHpcError
from rag_hpc.stores.questions import QUERIES
from rag_hpc.stores.tables import rows_of

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments


log = logging.getLogger(__name__)
_SWEPT = re.compile(r"(.+)-w(\d+)")  # the name of a sweep's point


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
        return Ledger(self.run_dir).made()

    @property
    def config(self) -> dict[str, Any]:
        """The composed config that the run was first asked for with."""
        config: dict[str, Any] = self._run["config"]
        return config

    @property
    def created_unix(self) -> float:
        """When the run was first asked for."""
        return float(self._run["created_unix"])

    @property
    def made_by(self) -> dict[str, Any]:
        """The version and the commit of the code that was asked first; empty for a run of before they were kept."""
        return dict(self._run.get("made_by", {}))

    @cached_property
    def submission(self) -> dict[str, Any]:
        """The latest submission. Raises InputError when there is none."""
        return dataclasses.asdict(Ledger(self.run_dir).request())

    @property
    def stages(self) -> list[str]:
        """The stages of the latest submission, in order."""
        return list(self.submission["stages"])

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The newest plan of each stage that continues the plans chosen before it; stages without one are left out."""
        chosen: dict[str, Plan] = {}
        ledger = Ledger(self.run_dir)
        for number in reversed(ledger.submissions()):
            if len(chosen) < len(self.stages):  # older ones are not needed, nor need they be whole
                request = ledger.request(number)
                known = [stage for stage in self.stages if stage in request.stages]
                for stage, plan in read_plans(self.run_dir, number, known, request.settings).items():
                    if stage not in chosen and _continues(plan, chosen):
                        chosen[stage] = plan
        return {stage: chosen[stage] for stage in self.stages if stage in chosen}

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
        plan, found = self.plans[stage], []
        units_dir = self.run_dir / plan.folder / UNITS
        done = committed(units_dir)
        units = {unit["index"]: unit for unit in self.manifests[stage].units} if stage in self.manifests else {}
        for unit in (unit for unit in plan.units if unit.index in done):
            record = read_record(units_dir / unit.name)
            name = self._names.get(record["submission"], record["run"])
            if name != record["run"] or units.get(unit.index, listed(record)) != listed(record):
                path = units_dir / unit.name / RECORD
                raise CorruptOutput(
                    f"{path}: not of this unit in this run; remove {path.parent}, then {mend(self.run_dir)}"
                )
            found.append(record)
        return found

    @cached_property
    def _names(self) -> dict[int, str]:
        """What the run was called in each submission that can be read: a run may have been copied."""
        ledger, names = Ledger(self.run_dir), {}
        for number in ledger.submissions():
            with contextlib.suppress(CorruptOutput):
                names[number] = ledger.request(number).run
        return names

    def rows(self, stage: str, name: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of every unit's table `name`, in unit order; none when the stage is not finished."""
        return rows_of(self.manifests[stage], name, columns) if stage in self.manifests else []


def find(root: Path, name: str | None, *, shared: bool = False) -> Results:
    """Return the run called `name` (a path also names one), or the one submitted last when it is None."""
    return Results(find_run(root, name, shared=shared).run_dir)


def named(arguments: Arguments, name: str | None) -> Results:
    """Return the run of that name where the arguments say that runs are."""
    return find(root_of(arguments), name, shared=reads_shared(arguments))


def named_once(arguments: Arguments, names: Sequence[str], *, together: bool = False) -> list[Results]:
    """Return the runs of these names. Raises ConfigError where two are one run: what is told of both would be told of
    one; and, where they are measured `together`, where two read other documents or questions.
    """
    runs = [named(arguments, name) for name in names]
    places = [run.run_dir.resolve() for run in runs]
    if twice := [run.name for run in runs if places.count(run.run_dir.resolve()) > 1]:
        raise ConfigError(f"{twice[0]} is named twice; name each run once")
    if other := [run.name for run in runs[1:] if together and same_documents(runs[0], run) is False]:
        raise ConfigError(
            f"{other[0]} and {runs[0].name} read different documents or questions: their times are of different work; "
            "name runs of the same"
        )
    return runs


def same_documents(a: Results, b: Results) -> bool | None:
    """Return whether two runs have the same documents and questions, by the hashes of what they read.

    None while it cannot be told: one has not read them yet.
    """
    hashes = [read_hashes(run) for run in (a, b)]
    both = hashes[0].keys() & hashes[1].keys()
    if any(hashes[0][stage] != hashes[1][stage] for stage in both):
        return False
    return True if any(stage_of(stage) == "crawl" for stage in both) else None


def read_hashes(run: Results) -> dict[str, str]:
    """Return the hash of the pages and of the questions, by the stage that read them, of the finished ones."""
    if not _submitted(run):
        return {}
    found = {stage: done.output_hash for stage, done in run.manifests.items() if stage_of(stage) == "crawl"}
    if "retrieve.queries" in run.manifests:  # the vectors' last bits are those of a processor
        found["retrieve.queries"] = run.manifests["retrieve.queries"].file_hash(QUERIES)
    return found


def read_counts(run: Results) -> dict[str, int]:
    """Return how many documents and queries the run read, of the finished stages that read them."""
    crawls = [done.total("items_out") for step, done in run.manifests.items() if stage_of(step) == "crawl"]
    found = {"documents": sum(crawls)} if crawls else {}
    if "retrieve.queries" in run.manifests:
        found["queries"] = run.manifests["retrieve.queries"].total("items_out")
    return found


def find_baseline(run: Results, *, shared: bool = False) -> Results | None:
    """Return the baseline of the same documents and questions that lies beside the run, None when there is none.

    Without one, the run of the same sweep with fewer workers is (NAME-w1 of NAME-w2). Of several, the one with the same
    corpus settings, finished, and asked for last is taken.
    """
    if _is_baseline(run):
        return None
    others = [Results(path) for path in known_runs(run.run_dir.parent, shared=shared) if path != run.run_dir]
    fitting = [other for other in others if _is_baseline_of(other, run)]
    return max(fitting, key=lambda other: _closeness(other, run), default=None)


def choose_baseline(arguments: Arguments, run: Results) -> Results | None:
    """Return the run that `--baseline` names, else the one found beside the run; ConfigError for the run itself."""
    given = arguments.values.get("--baseline")
    if not given:
        return find_baseline(run, shared=reads_shared(arguments))
    baseline = named(arguments, given)
    if baseline.run_dir.resolve() == run.run_dir.resolve():
        raise ConfigError(f"--baseline {given}: that is the run itself; name another, or leave it away")
    return baseline


def chosen_run(arguments: Arguments) -> Results:
    """Return the run that the arguments name: `run=NAME` or the first word, else the latest."""
    return named(arguments, name_of(arguments))


def stage_of(step: str) -> str:
    """Return the stage that a step belongs to: "dedup" for "dedup.sign"."""
    return step.split(".")[0]


def by_stage(steps: Sequence[str]) -> dict[str, list[str]]:
    """Return stage -> its steps, both in the order given."""
    steps_by_stage: dict[str, list[str]] = {}
    for step in steps:
        steps_by_stage.setdefault(stage_of(step), []).append(step)
    return steps_by_stage


def _continues(plan: Plan, chosen: dict[str, Plan]) -> bool:
    """An older submission's plan counts only where it read what the newer ones wrote."""
    return all(name in chosen and chosen[name].folder == folder for name, folder in plan.inputs.items())


def _is_baseline_of(other: Results, run: Results) -> bool:
    def asked(results: Results) -> list[Any]:
        return [results.config["corpus"].get(key) for key in ("name", "questions", "path", "seeds")]

    try:
        if not (_is_baseline(other) or _before_in_sweep(other, run)):
            return False
        same = same_documents(other, run)
        return asked(other) == asked(run) if same is None else same
    except (RagHpcError, OSError, KeyError, TypeError) as error:
        log.warning("%s is no baseline: %s", other.run_dir, error)
        return False


def _closeness(other: Results, run: Results) -> tuple[bool, bool, bool, int, float]:
    return (
        _is_baseline(other),
        other.config["corpus"] == run.config["corpus"],
        _submitted(other) and not other.unfinished,
        0 if _is_baseline(other) else -int(other.submission["workers"]),
        other.created_unix,
    )


def _is_baseline(run: Results) -> bool:
    return bool(run.config["pipeline"]["name"] == "baseline")


def _before_in_sweep(other: Results, run: Results) -> bool:
    """Return whether the names are those of a sweep's points, the other one's with fewer workers."""
    one, two = _SWEPT.fullmatch(other.name), _SWEPT.fullmatch(run.name)
    return bool(one and two and one[1] == two[1] and int(one[2]) < int(two[2]))


def _submitted(run: Results) -> bool:
    return any((run.run_dir / "submissions").glob("*/submission.json"))
