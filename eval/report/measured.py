"""What a study's report tables: curves of sweeps with their laws and bounds, quality, costs, and where runs differ."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.eval import scaling
from rag_hpc.eval.cost import ASKING, Prices, RunCost, stage_costs, summed
from rag_hpc.eval.laws import Chosen, fit, karp_flatt
from rag_hpc.eval.serial import alone, superlinear
from rag_hpc.eval.study import Study, StudyRun
from rag_hpc.eval.times import MAX_PRESSURE, SHARED, StageTime
from rag_hpc.stores.hits import RERANKED

Records = list[dict[str, Any]]
BUSY = 0.5  # of a core: a stage that keeps less busy waits, and shared cores do not hold it back
SHOWN = ("nDCG@10", "R@10", "f1")
GAIN = "nDCG@10"  # by which reranking is judged


@dataclass(kw_only=True)
class Curve:
    """One stage of a sweep. All S are against the mean T of the smallest p; seconds."""

    part: str
    stage: str
    times: dict[int, list[StageTime]]
    records: dict[int, Records]  # of all repeats at a p
    runs: dict[int, list[str]]
    differing: set[str]
    chosen: Chosen = field(init=False)

    def __post_init__(self) -> None:
        judged = {p: [t.wall_s for t in own if self.judged(t)] for p, own in self.times.items()}
        self.chosen = fit({p: walls for p, walls in judged.items() if walls})

    @property
    def ps(self) -> list[int]:
        """The p that were measured."""
        return sorted(self.times)

    def mean(self, p: int) -> float:
        """Return T(p)."""
        return statistics.fmean(time.wall_s for time in self.times[p])

    def speedup(self, p: int) -> float:
        """Return S(p)."""
        return self.mean(self.ps[0]) / self.mean(p) if self.mean(p) else 0.0

    @staticmethod
    def judged(time: StageTime) -> bool:
        """Return whether the machine was left to it."""
        return (time.pressure_cpu or 0.0) <= MAX_PRESSURE

    @property
    def cores(self) -> int:
        """Cores of all machines that it ran on, those of hosts that share a machine counted once; 0 if unknown."""
        last = self.records[self.ps[-1]]
        machines = {r["hardware"].get("machine", r["host"]): r["hardware"].get("cores", 0) for r in last}
        return sum(machines.values())

    @property
    def hosts(self) -> int:
        """Hosts of the largest p."""
        return len({r["host"] for r in self.records[self.ps[-1]]})

    @property
    def busy(self) -> float:
        """Share of a core that one worker keeps busy."""
        first = self.times[self.ps[0]]
        return statistics.fmean(t.cpu_s / t.wall_s / t.p if t.wall_s else 0.0 for t in first)

    @property
    def bound(self) -> tuple[float, str] | None:
        """The S that the machines' cores allow: T(1) over the CPU seconds of one worker's run, spread over them."""
        cpu_s = statistics.fmean(t.cpu_s for t in self.times[self.ps[0]])
        if not self.cores or not cpu_s:
            return None
        value = self.mean(self.ps[0]) * self.cores / cpu_s
        return (value, f"{self.cores} cores") if value < 1.5 * self.ps[-1] else None

    @property
    def claimed(self) -> int | None:
        """The largest p whose S may be quoted: the machine was left to its runs, with a core for all that compute."""
        able = [p for p in self.ps[1:] if not self.cores or p * self.busy <= self.cores]
        return max(
            (p for p in able if all(self.judged(t) for q in (self.ps[0], p) for t in self.times[q])), default=None
        )

    @property
    def law(self) -> str:
        """The law, or why there is none."""
        if self.chosen.fit:
            return scaling.said(self.chosen.fit)
        shared = sum(not self.judged(time) for own in self.times.values() for time in own)
        said = f"no law fitted: {self.chosen.refused or 'T falls faster than 1 / p'}"
        return f"{said}; {shared} runs not judged, {SHARED}" if shared else said

    @property
    def serial(self) -> str:
        """What the records of the largest p's first run name as its serial part."""
        own = [r for r in self.records[self.ps[-1]] if r["run"] == self.runs[self.ps[-1]][0]]
        steps = dict.fromkeys(r["stage"] for r in own)
        said = [found.said for s in steps if (found := alone([r for r in own if r["stage"] == s]))]
        return "; ".join(said) or "ranks work on each unit together: the records do not tell"

    def explained(self) -> Iterator[str]:
        """Yield what explains each superlinear point."""
        for p in self.ps[1:]:
            efficiency = self.speedup(p) * self.ps[0] / p
            if said := superlinear(efficiency, self.records[self.ps[0]], self.records[p]):
                yield f"{self.part}, p = {p}: {said}"

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a measurement."""
        first = self.mean(self.ps[0])
        return [
            {
                "part": self.part,
                "stage": self.stage,
                "run": run,
                "p": p,
                "T": time.wall_s,
                "S": first / time.wall_s if time.wall_s else None,
                "E": first / time.wall_s * self.ps[0] / p if time.wall_s else None,
                "e": karp_flatt(first / time.wall_s, p / self.ps[0]) if time.wall_s else None,
                "rate": time.rate,
                "same": self.stage not in self.differing,
                "hosts": len(time.hosts),
                "queue": time.queue_s,
                "setup": time.per_worker["setup"],
                "busy": 100 * time.cpu_s / (p * time.wall_s) if time.wall_s else None,
                "pressure": time.pressure_cpu,
                "judged": self.judged(time),
            }
            for p in self.ps
            for run, time in zip(self.runs[p], self.times[p], strict=True)
        ]


def curves(study: Study) -> list[Curve]:
    """Return the stages of a study of several p that all its runs finished and that took time."""
    if study.no_curve:
        return []
    times = {run.run: run.times() for run in study.runs}
    stages = [s for s in times[study.runs[0].run] if all(s in times[r.run] and r.whole(s) for r in study.runs)]
    found = []
    for stage in stages:
        by_p: dict[int, list[StudyRun]] = {}
        for run in study.runs:
            by_p.setdefault(times[run.run][stage].p, []).append(run)
        if len(by_p) > 1 and all(times[run.run][stage].wall_s > 0 for run in study.runs):
            found.append(
                Curve(
                    part=study.name,
                    stage=stage,
                    times={p: [times[run.run][stage] for run in own] for p, own in by_p.items()},
                    records={p: [r for run in own for r in run.by_stage()[stage]] for p, own in by_p.items()},
                    runs={p: [run.run for run in own] for p, own in by_p.items()},
                    differing={s for run in study.runs for s in run.differing},
                )
            )
    return found


def costs(study: Study, prices: Prices) -> list[RunCost]:
    """Return what each run of a study used and costs, by its records."""
    found = []
    for run in study.runs:
        records = {step: list(run.records[step].values()) for step in run.steps if step in run.records}
        stages = stage_costs(records, prices, {})
        found.append(summed(run.run, stages, prices, run.counts, run.answer_f1, []))
    return found


def settings_that_differ(study: Study) -> dict[str, dict[str, Any]]:
    """Return setting -> run -> value, of the settings that not all runs of a study have alike."""
    flat = {run.run: dict(_flat(run.config)) for run in study.runs}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    found = {key: {run: values.get(key) for run, values in flat.items()} for key in keys}
    return {key: by_run for key, by_run in found.items() if len({str(value) for value in by_run.values()}) > 1}


def latency_s(run: StudyRun) -> float | None:
    """Return the seconds of a worker that a query takes to be searched, ranked again and answered; None unasked."""
    queries = run.counts.get("queries", 0)
    asking = [r for stage, rows in run.by_stage().items() if stage in ASKING for r in rows]
    work_s = sum(r["work_s"] for r in asking if r["stage"] != "retrieve.queries")
    return work_s / queries if queries and work_s else None


def measure_of(run: StudyRun, measure: str) -> dict[str, Any] | None:
    """Return the mean of a measure with its interval: of the answers, or of the ranking that they are made from."""
    reranked = any(row["method"] == RERANKED for row in run.means)
    method = "answers" if measure == "f1" else RERANKED if reranked else run.handed_on
    return next((row for row in run.means if row["method"] == method and row["measure"] == measure), None)


def tables_of(studies: Sequence[Study], prices: Prices | None) -> dict[str, Any]:
    """Return what the page's tables show."""
    swept = [curve for study in studies for curve in curves(study)]
    asked = [(study, run) for study in studies for run in study.runs if run.means]
    machines = max(((c.hosts, c.cores) for c in swept), default=(1, 0))
    records = [r for study in studies for run in study.runs for rows in run.records.values() for r in rows.values()]
    return {
        "curves": swept,
        "points": [row for curve in swept for row in curve.rows()],
        "explained": [line for curve in swept for line in curve.explained()],
        "shared": machines if machines[0] > 1 and machines[1] and _one_machine(records) else None,
        "hardware": sorted({r["hardware"].get("cpu", "unknown") for r in records}),
        "num_runs": sum(len(study.runs) for study in studies),
        "varied": [_varied(study) for study in studies if study.no_curve and len(study.runs) > 1],
        "quality": [
            {"part": study.name, **{k: row[k] for k in ("run", "method", "measure", "mean", "low", "high")}}
            for study, run in asked
            for row in run.means
        ],
        "cost": _cost_rows(studies, prices) if prices else [],
        "milestones": [
            {"part": study.name, "run": run.run, **row}
            for study in studies
            if not settings_that_differ(study)  # there another output is what was asked for
            for run in study.runs
            if run.means
            for row in run.milestones
            if row["verdict"] != "not judged"
        ],
        "provenance": [
            {"part": study.name, "run": run.run, "workers": run.workers, "made_by": run.made_by,
             "documents": run.documents, "units": sum(run.num_units.values())}
            for study in studies for run in study.runs
        ],
        "max_pressure": MAX_PRESSURE,
    }  # fmt: skip


def _cost_rows(studies: Sequence[Study], prices: Prices) -> list[dict[str, Any]]:
    return [
        {"part": study.name, **dataclasses.asdict(one), "by_stage": {row.stage: row.cost for row in one.stages}}
        for study in studies
        if any(run.counts and set(run.by_stage()) & set(ASKING) for run in study.runs)
        for one in costs(study, prices)
    ]


def _varied(study: Study) -> dict[str, Any]:
    differ = settings_that_differ(study)
    rows = []
    for run in study.runs:
        found = {name: measure_of(run, name) for name in SHOWN}
        before = next((r for r in run.means if (r["method"], r["measure"]) == (run.handed_on, GAIN)), None)
        after = found[GAIN]
        reranked = after if after and after["method"] == RERANKED else None
        rows.append(
            {
                "run": run.run,
                "values": [differ[key][run.run] for key in differ],
                "latency": latency_s(run),
                "means": found,
                "gain": reranked["mean"] - before["mean"] if reranked and before else None,
            }
        )
    return {"part": study.name, "settings": list(differ), "rows": rows}


def _one_machine(records: Records) -> bool:
    """Return whether several hosts are one machine."""
    machines = {r["hardware"].get("machine") for r in records}
    return None not in machines and len(machines) < len({r["host"] for r in records})


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{above}.{key}" if above else str(key))
    else:
        yield above, value
