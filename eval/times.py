"""How long each stage took, and what that is against the baseline: T, S and E, with queue and setup kept beside T.

T(p) runs from a stage's first unit to its last commit. S(p) = T(1) / T(p), E(p) = S(p) / p.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.core.manifest import add_up
from rag_hpc.eval.results import Results, by_stage

PARTS = ("queue", "setup", "work", "flush")
MAX_PRESSURE = 20.0  # percent of the time in which something waited for a CPU: above it others' work is measured too
SHARED = "the machine was shared"


@dataclass(kw_only=True)
class StageTime:
    """Measurements of one step, or of a stage as the sum of its steps. Seconds and bytes."""

    stage: str
    num_units: int
    items_in: int
    items_out: int
    dropped: dict[str, int]
    wall_s: float  # T: first unit's start to last commit
    queue_s: float | None  # mean over workers; None when nothing queued them
    setup_s: float  # sum over workers
    work_s: float  # sum over units
    flush_s: float
    cpu_s: float
    peak_rss_bytes: int  # of the largest worker
    bytes_read: int
    bytes_written: int
    pressure_cpu: float | None  # mean over units, percent
    num_workers: int  # that committed anything
    p: int
    hosts: list[str]
    launches: list[str]
    num_submissions: int  # that contributed; with more than one, T leaves out the time between them
    per_worker: dict[str, float] = field(default_factory=dict)  # mean seconds of a worker in each of PARTS

    @property
    def rate(self) -> float | None:
        """Items taken in per second of T."""
        return self.items_in / self.wall_s if self.wall_s > 0 else None


@dataclass(kw_only=True)
class Speedup:
    """A stage's time against the baseline's."""

    stage: str
    run: StageTime
    baseline: StageTime

    @property
    def speedup(self) -> float:
        """S = T_baseline / T_run."""
        return self.baseline.wall_s / self.run.wall_s if self.run.wall_s > 0 else float("inf")

    @property
    def efficiency(self) -> float:
        """E = S / p, p relative to the baseline's own."""
        return self.speedup * self.baseline.p / self.run.p

    @property
    def shared(self) -> bool:
        """Whether too much else was computed meanwhile for a verdict on S and E."""
        return any((time.pressure_cpu or 0.0) > MAX_PRESSURE for time in (self.run, self.baseline))


def step_times(results: Results) -> list[StageTime]:
    """Return one row a step, in pipeline order, leaving out steps without a committed unit."""
    measured = [(step, results.records(step)) for step in results.stages]
    return [measure(step, records) for step, records in measured if records]


def stage_times(results: Results) -> list[StageTime]:
    """Return one row a stage; the steps' times add up, and items are those that enter and leave the last step."""
    steps = {time.stage: time for time in step_times(results)}
    grouped = by_stage(list(steps))
    return [combine(stage, [steps[name] for name in names]) for stage, names in grouped.items()]


def speedups(run: Results, baseline: Results) -> list[Speedup]:
    """Return the stages that both runs finished in full, in the run's order."""
    mine = {time.stage: time for time in stage_times(run)}
    theirs = {time.stage: time for time in stage_times(baseline)}
    both = [s for s in mine if s in theirs and _finished(run, s) and _finished(baseline, s)]
    return [Speedup(stage=s, run=mine[s], baseline=theirs[s]) for s in both]


def measure(step: str, records: Sequence[dict[str, Any]]) -> StageTime:
    """Return the measurements of one step from its units' records (at least one)."""
    workers = _workers(records)
    queues = [w["queue_s"] for w in workers if w["queue_s"] is not None]
    pressures = [r["pressure_cpu"] for r in records if r["pressure_cpu"] is not None]
    sums = {
        key: sum(r[key] for r in records)
        for key in ("items_in", "items_out", "work_s", "flush_s", "cpu_s", "bytes_read", "bytes_written")
    }
    setup_s = sum(w["setup_s"] for w in workers)
    queue_s = statistics.fmean(queues) if queues else None
    num = len(workers)
    return StageTime(
        stage=step,
        num_units=len(records),
        dropped=add_up([r["dropped"] for r in records]),
        wall_s=_span(records),
        queue_s=queue_s,
        setup_s=setup_s,
        peak_rss_bytes=max(r["peak_rss_bytes"] for r in records),
        pressure_cpu=statistics.fmean(pressures) if pressures else None,
        num_workers=num,
        p=max(r["p"] for r in records),
        hosts=sorted({r["host"] for r in records}),
        launches=sorted({r["launch"] for r in records}),
        num_submissions=len({r["submission"] for r in records}),
        per_worker={
            "queue": queue_s or 0.0,
            "setup": setup_s / num,
            "work": sums["work_s"] / num,
            "flush": sums["flush_s"] / num,
        },
        **sums,
    )


def combine(stage: str, steps: Sequence[StageTime]) -> StageTime:
    """Return the stage's row from those of its steps, which run one after another."""
    last = steps[-1]
    queues = [s.queue_s for s in steps if s.queue_s is not None]
    weighed = [(s.pressure_cpu, s.num_units) for s in steps if s.pressure_cpu is not None]
    sums = {
        key: sum(getattr(s, key) for s in steps)
        for key in ("num_units", "wall_s", "setup_s", "work_s", "flush_s", "cpu_s", "bytes_read", "bytes_written")
    }
    return StageTime(
        stage=stage,
        items_in=last.items_in,
        items_out=last.items_out,
        dropped=add_up([s.dropped for s in steps]),
        queue_s=sum(queues) if queues else None,
        peak_rss_bytes=max(s.peak_rss_bytes for s in steps),
        pressure_cpu=sum(p * n for p, n in weighed) / sum(n for _, n in weighed) if weighed else None,
        num_workers=max(s.num_workers for s in steps),
        p=max(s.p for s in steps),
        hosts=sorted({h for s in steps for h in s.hosts}),
        launches=sorted({k for s in steps for k in s.launches}),
        num_submissions=max(s.num_submissions for s in steps),
        per_worker={part: sum(s.per_worker[part] for s in steps) for part in PARTS},
        **sums,
    )


def _span(records: Sequence[dict[str, Any]]) -> float:
    """Return the seconds from first start to last end, summed over submissions: what lies between them is no work."""
    spans: dict[int, tuple[float, float]] = {}
    for r in records:
        first, last = spans.get(r["submission"], (r["started_unix"], r["ended_unix"]))
        spans[r["submission"]] = min(first, r["started_unix"]), max(last, r["ended_unix"])
    return sum(last - first for first, last in spans.values())


def _workers(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one record of each worker: all units of a worker repeat its setup and queue time."""
    keys = ("submission", "job_id", "array_task_id", "restarts", "host", "rank", "queue_s", "setup_s")
    return list({tuple(r[key] for key in keys): r for r in records}.values())


def _finished(results: Results, stage: str) -> bool:
    return all(step in results.manifests for step in by_stage(results.stages)[stage])
