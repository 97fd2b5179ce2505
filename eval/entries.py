"""What a tracker shows of a study: an entry for each stage of each run, and one with all points, tables and picture.

An entry's id and content follow from the study alone, so that publishing it again changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.core.hashing import hash_value
from rag_hpc.errors import MissingDependency
from rag_hpc.eval import scaling
from rag_hpc.eval.cost import Prices, rows_of, stage_costs
from rag_hpc.eval.laws import Chosen, Share
from rag_hpc.eval.study import Study, StudyRun
from rag_hpc.eval.times import StageTime

REPORT = "report"
OF_UNIT = (
    *("attempt", "restarts", "submission", "rank", "work_s", "flush_s", "cpu_s", "items_in", "items_out"),
    *("bytes_read", "bytes_written", "peak_rss_bytes"),
)
OF_POINT = {  # name in the tracker -> of a point
    "T": "wall_s",
    "S": "speedup",
    "E": "efficiency",
    "karp_flatt": "karp_flatt",
    "items": "items",
    "queue_s": "queue_s",
    "setup_s": "setup_s",
    "cpu_s": "cpu_s",
    "pressure_cpu": "pressure_cpu",
    "num_hosts": "num_hosts",
    "judged": "judged",
    "same_output": "same_output",
}
OF_COST = ("core_s", "gpu_s", "node_s", "energy_j", "energy_from", "cost", "currency", "prices")
OF_A_PAIR = ("S", "E", "karp_flatt")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of the tracker. rows: its history; tables and pictures by name; began_unix: when it was measured."""

    id: str
    name: str
    stage: str
    config: dict[str, Any]
    rows: Rows
    summary: dict[str, Any]
    began_unix: float
    tables: dict[str, Rows] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The hash of all that it shows."""
        pictures = {name: hashlib.sha256(data).hexdigest() for name, data in self.pictures.items()}
        return hash_value({**dataclasses.asdict(self), "pictures": pictures})


def entries(study: Study, prices: Prices, *, most: int) -> list[Entry]:
    """Return at most `most` entries, the last one being the report, which holds every point; `most` is at least 1."""
    points = study.points()
    by_run = {(point.run, point.stage): point for point in points}
    found = [
        _entry(study, run, time, by_run.get((run.run, stage)), costs[stage])
        for run in study.runs
        for costs in [{row["stage"]: row for row in _costs(run, prices)}]
        for stage, time in run.times().items()
    ]
    return [*found[: most - 1], _report(study, prices, points, num_left_out=max(0, len(found) - (most - 1)))]


def tables(study: Study, prices: Prices, points: Sequence[scaling.Point]) -> dict[str, Rows]:
    """Return the tables of a study that have rows: points, laws, times, cost, milestones, quality, skipped."""
    found: dict[str, Rows] = {
        "points": [dataclasses.asdict(point) for point in points],
        "laws": [_law(stage, chosen) for stage, chosen in scaling.fits(points).items()],
        "times": [_time(run.run, time) for run in study.runs for time in run.times().values()],
        "cost": [row for run in study.runs for row in _costs(run, prices)],
        "milestones": [{"run": run.run, **row} for run in study.runs for row in run.milestones],
        "quality": [
            {"run": run.run, "ranking": part, "measure": name, "value": float(value)}
            for run in study.runs
            for part, values in run.quality.items()
            for name, value in values.items()
        ],
        "skipped": [{"problem": problem} for problem in study.problems],
    }
    return {name: rows for name, rows in found.items() if rows}


def picture(study: Study, points: Sequence[scaling.Point]) -> bytes | None:
    """Return S over p as a PNG; None without two p, or without matplotlib."""
    if study.no_curve or not any(point.wall_s > 0 for point in points):
        return None
    try:
        return scaling.plotted(points, "png")
    except MissingDependency:
        return None


def _entry(study: Study, run: StudyRun, time: StageTime, point: scaling.Point | None, spent: dict[str, Any]) -> Entry:
    records = run.by_stage()[time.stage]
    first = min(record["started_unix"] for record in records)
    shown = {f"scaling/{name}": value for name, value in _shown(study, time, point).items()}
    shown |= {f"cost/{name}": spent[name] for name in OF_COST if spent[name] is not None}
    quality = {f"quality/{part}/{name}": value for part, of in run.quality.items() for name, value in of.items()}
    return Entry(
        id=_id(study.name, run.run, time.stage, time.p),
        name=f"{run.run} {time.stage}",
        stage=time.stage,
        config={**_config(study, run), "stage": time.stage, "p": time.p, "hardware": _hardware(records)},
        rows=[*(_unit(record, first) for record in records), {"p": time.p, **shown}],
        summary={"p": time.p, **shown, **quality, "finished": run.whole(time.stage)},
        began_unix=first,
    )


def _costs(run: StudyRun, prices: Prices) -> Rows:
    records = {step: list(run.records[step].values()) for step in run.steps if step in run.records}
    return rows_of(run.run, stage_costs(records, prices, {}), prices)


def _report(study: Study, prices: Prices, points: Sequence[scaling.Point], num_left_out: int) -> Entry:
    drawn = picture(study, points)
    rows: dict[str, dict[str, Any]] = {run.run: {"p": run.workers} for run in study.runs}
    for point in points:
        shown = _shown(study, None, point)
        rows[point.run] |= {f"scaling/{point.stage}/{name}": value for name, value in shown.items()}
    return Entry(
        id=_id(study.name, REPORT),
        name=f"{study.name} {REPORT}",
        stage=REPORT,
        config={
            "study": study.name,
            "caveats": study.caveats,
            "runs": {run.run: _config(study, run) for run in study.runs},
        },
        rows=list(rows.values()),
        summary={
            "runs": len(study.runs),
            "points": len(points),
            "points_without_entry": num_left_out,
            "skipped": len(study.problems),
        },
        began_unix=min(run.created_unix for run in study.runs),
        tables=tables(study, prices, points),
        pictures={"speedup": drawn} if drawn else {},
    )


def _id(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]


def _config(study: Study, run: StudyRun) -> dict[str, Any]:
    told = {"run": run.run, "workers": run.workers, "made_by": run.made_by, "documents": run.documents}
    return {"study": study.name, "baseline": study.runs[0].run, **told, "settings": run.config}


def _hardware(records: Rows) -> list[dict[str, Any]]:
    """Return the kinds of machine that the records come from, with the CPUs and GPUs granted on each."""
    kinds = [
        {k: v for k, v in r["hardware"].items() if k != "machine"}
        | {"cpus_granted": r["cpus"], "gpus_granted": r["gpus"]}
        for r in records
    ]
    return [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]


def _unit(record: dict[str, Any], first_unix: float) -> dict[str, Any]:
    times = {name: round(record[f"{name}_unix"] - first_unix, 3) for name in ("started", "ended")}
    shown = {"step": record["stage"], "index": record["unit"]} | {f"{name}_s": value for name, value in times.items()}
    return {f"unit/{name}": value for name, value in (shown | {name: record[name] for name in OF_UNIT}).items()}


def _shown(study: Study, time: StageTime | None, point: scaling.Point | None) -> dict[str, Any]:
    """Return what there is to show of a stage: all of its point, and of its times alone where there is no other p."""
    if point is None and time is not None:
        return {"T": time.wall_s, "items": time.items_in, "cpu_s": time.cpu_s}
    shown = {name: getattr(point, of) for name, of in OF_POINT.items() if not (study.no_curve and name in OF_A_PAIR)}
    shown["rate"] = point.items / point.wall_s if point and point.wall_s else None
    return {name: value for name, value in shown.items() if value is not None}


def _law(stage: str, chosen: Chosen) -> dict[str, Any]:
    law = chosen.fit
    row: dict[str, Any] = {"stage": stage, "law": law.law if law else None, "refused": chosen.refused}
    shares: dict[str, Share | None] = {name: getattr(law, name, None) for name in ("t1_s", "serial", "crosstalk")}
    for name, share in shares.items():
        row |= {
            f"{name}{end}": getattr(share, of, None) for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    return row | {"noise": law.noise if law else None}


def _time(run: str, time: StageTime) -> dict[str, Any]:
    plain = dataclasses.asdict(time)
    apart = ("dropped", "hosts", "launches", "per_worker")
    dropped, hosts = sum(time.dropped.values()), len(time.hosts)
    return {"run": run, **{k: v for k, v in plain.items() if k not in apart}, "dropped": dropped, "num_hosts": hosts}
