"""A study: some runs of one corpus and their records, as lines of JSON. Whatever is published is made from those lines.

The lines are one of the study, one a run, and one a record; each ends with the hash of its own text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rag_hpc.core.commit import UNITS, committed, read_record
from rag_hpc.core.job import SECRET
from rag_hpc.core.record import Record
from rag_hpc.core.stored import read_text, sealed_json, typed
from rag_hpc.errors import ConfigError, CorruptOutput, RagHpcError
from rag_hpc.eval import metrics, milestones, quality, scaling
from rag_hpc.eval.results import Results, by_stage, read_counts, read_hashes
from rag_hpc.eval.times import Speedup, StageTime, combine, measure
from rag_hpc.eval.verdicts import Milestone

SWEPT = re.compile(r"(.+?)-(?:w\d+|p\d+-r\d+)")  # of a sweep over workers=, and of rag-hpc sweep
PUBLIC = (
    "corpus",
    "pipeline",
    "workers",
    "stage",
    "generator",
    "prompt",
    "train",
)  # parts of a config; where it ran is not
Made = TypeVar("Made")


@dataclass(kw_only=True)
class StudyRun:
    """A run as a line tells it, and the records of its committed units by step."""

    run: str
    workers: int
    created_unix: float
    made_by: dict[str, Any]  # version and git commit of the code; empty for runs of before
    config: dict[str, Any]  # without what is secret or says where it ran
    documents: dict[str, str]  # hashes of what it read
    steps: list[str]  # that are planned, in order
    num_units: dict[str, int]  # of each of them
    finished: list[str]
    differing: list[str]  # stages whose output is not the baseline's
    quality: dict[str, dict[str, float]]
    milestones: list[dict[str, Any]]
    caveats: list[str]  # to be known before a figure of quality is quoted
    problems: list[str]  # what could not be read
    means: list[dict[str, Any]] = field(default_factory=list)  # of quality, with their intervals, as `metrics` has them
    handed_on: str | None = None  # the ranking that answers were made from
    answer_f1: list[float] = field(default_factory=list)  # of each judged answer
    counts: dict[str, int] = field(default_factory=dict)  # documents and queries, where it read them
    records: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)  # by step and unit

    def times(self) -> dict[str, StageTime]:
        """Return the measurements of each stage that has a record."""
        steps = {name: measure(name, list(self.records[name].values())) for name in self.steps if name in self.records}
        return {stage: combine(stage, [steps[s] for s in names]) for stage, names in by_stage(list(steps)).items()}

    def by_stage(self) -> dict[str, list[dict[str, Any]]]:
        """Return each stage's records in the order in which they ended."""
        grouped = by_stage([step for step in self.steps if step in self.records])
        found = {
            s: [record for name in names for record in self.records[name].values()] for s, names in grouped.items()
        }
        return {s: sorted(rows, key=lambda r: (r["ended_unix"], r["stage"], r["unit"])) for s, rows in found.items()}

    def whole(self, stage: str) -> bool:
        """Return whether the stage is finished and none of its records is missing."""
        steps = by_stage(self.steps)[stage]
        return all(s in self.finished and len(self.records.get(s, {})) == self.num_units[s] for s in steps)


@dataclass(kw_only=True)
class Study:
    """Runs of one corpus, the baseline first. problems: what was skipped because it could not be read, a line each."""

    name: str
    runs: list[StudyRun]
    problems: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> list[str]:
        """The runs with steps to go."""
        return [run.run for run in self.runs if set(run.steps) - set(run.finished)]

    @property
    def caveats(self) -> list[str]:
        """What must be known before a figure of quality is quoted, of all runs."""
        return [caveat for run in self.runs for caveat in run.caveats]

    @property
    def no_curve(self) -> str:
        """Why there is no speed-up to show, empty where there is one."""
        ps = sorted({run.workers for run in self.runs})
        if len(ps) > 1:
            return ""
        return (
            f"no speed-up curve: all of it ran with p = {ps[0]}, and S compares two p; "
            "run a sweep, and publish its runs: rag-hpc run workers=1,2,4 ..., rag-hpc publish NAME-w1 NAME-w2 NAME-w4"
        )

    def points(self) -> list[scaling.Point]:
        """Return a point for each stage and run that can be compared with the baseline, stages in their order."""
        first, theirs = self.runs[0], self.runs[0].times()
        found = [
            scaling.point_of(
                run.run, Speedup(stage=stage, run=time, baseline=theirs[stage]), same_output=stage not in run.differing
            )
            for run in self.runs
            for stage, time in run.times().items()
            if stage in theirs and run.whole(stage) and first.whole(stage)
        ]
        stages = list(dict.fromkeys(point.stage for point in found))
        return sorted(found, key=lambda point: stages.index(point.stage))


def name_of(runs: Sequence[str]) -> str:
    """Return what runs of those names are called together: NAME of NAME-w1 and NAME-w2, else what they begin with."""
    swept = {match[1] if (match := SWEPT.fullmatch(run)) else run for run in runs}
    common = swept.pop() if len(swept) == 1 else _common(runs).rstrip("-._")
    return common or runs[0]


def gather(runs: Sequence[Results], name: str, baseline: Path | None = None) -> bytes:
    """Return the lines of a study. A record that is damaged is left out, and named in its run's line.

    baseline: the folder of the run that others are held against, by default one with the fewest workers.
    """

    def place(run: Results) -> tuple[bool, int, bool]:
        named = baseline is not None and run.run_dir.resolve() == baseline.resolve()
        return not named, int(run.submission["workers"]), run.config["pipeline"]["name"] != "baseline"

    ordered = sorted(runs, key=place)
    first = ordered[0]
    lines = [sealed_json({"kind": "study", "study": name})]
    for run in ordered:
        problems: list[str] = []
        records = {step: _records(run, step, problems) for step in run.stages}
        records = _measured(run, records)
        lines.append(sealed_json({"kind": "run", **_told(run, first, [*records], problems)}))
        lines += [
            sealed_json({"kind": "record", "of": run.name, **record, "files": {}})
            for found in records.values()
            for record in found
        ]
    return b"".join(lines)


def parse(data: bytes, source: str) -> Study:
    """Return the study that lines tell; one that cannot be read is skipped and named, as `source`:NUMBER.

    Raises ConfigError when no run is left, and for runs of different documents.
    """
    study = Study(name=Path(source).stem, runs=[])
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            read_text(line + b"\n", f"{source}:{number}", "skipped", lambda value: _take(study, value))
        except CorruptOutput as error:
            study.problems.append(str(error))
    if not study.runs:
        raise ConfigError(f"{source}: it tells of no run; write it anew: rag-hpc publish RUN RUN ...")
    check_documents(study)
    return study


def _take(study: Study, value: dict[str, Any]) -> None:
    """Add what a line tells to the study. Raises KeyError, TypeError or ValueError for what no line tells."""
    kind, told = value["kind"], _without(value, "kind", "seal", "of")
    runs = {run.run: run for run in study.runs}
    if kind == "study":
        study.name = str(told["study"])
    elif kind == "run" and told["run"] not in runs:
        run = typed(StudyRun, told)
        study.runs.append(run)
        study.problems += run.problems
    elif kind == "record" and value["of"] in runs:
        record = dataclasses.asdict(typed(Record, told))
        units = runs[value["of"]].records.setdefault(record["stage"], {})
        if record["unit"] in units:
            raise ValueError(f"unit {record['unit']} of {record['stage']} is told twice")
        units[record["unit"]] = record
    else:
        raise ValueError(f"a {kind} of {value.get('of') or told.get('run')}, out of place")


def check_documents(study: Study) -> None:
    """Raise ConfigError when two runs read other documents or questions: their times are of different work."""
    first = study.runs[0]
    for run in study.runs[1:]:
        both = first.documents.keys() & run.documents.keys()
        apart = [stage for stage in both if first.documents[stage] != run.documents[stage]]
        corpora = [one.config.get("corpus", {}).get("name") for one in (first, run)]
        if apart or (not both and corpora[0] != corpora[1]):
            raise ConfigError(
                f"{run.run} and {first.run} read different documents or questions (corpora {corpora[1]} and "
                f"{corpora[0]}): they are two studies, publish each with its own runs"
            )


def _common(names: Sequence[str]) -> str:
    low, high = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]


def _measured(run: Results, records: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the steps without those that a sweep's measurement took over: each p would tell of their time again."""
    own = {step for step, found in records.items() if any(record["run"] == run.name for record in found)}
    if not (own and SWEPT.fullmatch(run.name)):
        return records
    return {step: found for step, found in records.items() if step in own or not found}


def _told(run: Results, first: Results, kept: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """Return what a run's line holds of the steps `kept`; what cannot be judged, as a file is damaged, is named."""
    other = None if run is first else first
    unjudged: list[Milestone] = []
    judged = _tried(problems, lambda: milestones.judge(run, other), unjudged)
    values = StudyRun(
        run=run.name,
        workers=int(run.submission["workers"]),
        created_unix=run.created_unix,
        made_by=run.made_by,
        config=_plain({key: run.config[key] for key in PUBLIC if key in run.config}),
        documents=read_hashes(run),
        steps=[step for step in run.plans if step in kept],
        num_units={step: len(plan.units) for step, plan in run.plans.items() if step in kept},
        finished=[step for step in run.stages if step in run.manifests and step in kept],
        differing=_tried(problems, lambda: sorted(scaling.differing(first, run)), []) if other else [],
        quality=_tried(problems, lambda: {} if quality.stand_ins(run) else quality.metrics(run), {}),
        milestones=[dataclasses.asdict(row) for row in judged],
        caveats=_tried(problems, lambda: quality.caveats(run), []),
        problems=problems,
        means=_tried(problems, lambda: _means(run), []),
        handed_on=_tried(problems, lambda: quality.handed_on(run), None),
        answer_f1=_tried(
            problems, lambda: [line["f1"] for line in quality.answer_lines(run) if line["f1"] is not None], []
        ),
        counts=read_counts(run),
    )
    return _without(dataclasses.asdict(values), "records")


def _records(run: Results, step: str, problems: list[str]) -> list[dict[str, Any]]:
    """Return the step's records; one by one where one is damaged, and those that are whole."""
    try:
        return run.records(step)
    except CorruptOutput as error:
        found, before = [], len(problems)
        folder = run.run_dir / run.plans[step].folder / UNITS
        done = committed(folder)
        for unit in (unit for unit in run.plans[step].units if unit.index in done):
            try:
                found.append(read_record(folder / unit.name))
            except CorruptOutput as damage:
                problems.append(f"{damage}; skipped")
        if len(problems) == before:  # each is whole, but one is another's
            problems.append(f"{error}; {step} skipped")
            return []
        return found


def _tried(problems: list[str], ask: Callable[[], Made], otherwise: Made) -> Made:
    try:
        return ask()
    except RagHpcError as error:
        if not any(str(error) in told for told in problems):
            problems.append(f"not judged: {error}")
        return otherwise


def _means(run: Results) -> list[dict[str, Any]]:
    if "evaluate" not in run.manifests or quality.stand_ins(run):
        return []
    return [dataclasses.asdict(row) for row in metrics.means(run)]


def _plain(value: Any) -> Any:
    """Return a config without members whose names are those of secrets, and of paths their last parts alone."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not SECRET.search(str(key).upper())}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return json.loads(json.dumps(value))


def _without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in names}
