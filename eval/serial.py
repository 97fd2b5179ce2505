"""What kept p workers from being p times as fast, as the records name it: who worked alone, and what fits a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rag_hpc.eval.results import Results
from rag_hpc.eval.text import amount, percent

COLLECTIVE = ("mpi",)  # all ranks are in each unit, whose record is rank 0's
LITTLE = 0.05  # of T
BEYOND = 1.05  # E above it is superlinear, and not noise


@dataclass(frozen=True, kw_only=True)
class Alone:
    """The time of a step in which one unit was at work, or none, and the unit or gap that has most of it. Seconds."""

    seconds: float
    wall_s: float
    worst: str
    worst_s: float

    @property
    def said(self) -> str:
        """The line for people."""
        if not self.seconds:
            return "no unit was ever alone"
        whole = percent(100 * self.seconds / self.wall_s)
        return f"{whole} of T with one unit or none at work; {percent(100 * self.worst_s / self.wall_s)}: {self.worst}"


def alone(records: Sequence[dict[str, Any]]) -> Alone | None:
    """Return when less than two units of a step's records were at work; None where records cannot tell, or p is 1."""
    if not records or max(r["p"] for r in records) < 2 or any(r["launch"] in COLLECTIVE for r in records):
        return None
    ends = sorted({r["started_unix"] for r in records} | {r["ended_unix"] for r in records})
    by_name: dict[str, float] = {}
    for begin, end in pairwise(ends):
        busy = [r for r in records if r["started_unix"] <= begin and r["ended_unix"] >= end]
        if len(busy) < 2:
            name = f"unit {busy[0]['unit']} of {busy[0]['stage']}" if busy else "between units"
            by_name[name] = by_name.get(name, 0.0) + end - begin
    wall_s = ends[-1] - ends[0]
    if wall_s <= 0:
        return None
    worst = max(by_name, key=lambda name: by_name[name], default="")
    return Alone(seconds=sum(by_name.values()), wall_s=wall_s, worst=worst, worst_s=by_name.get(worst, 0.0))


def of_run(run: Results) -> dict[str, str]:
    """Return step -> what its records name as serial, of the steps in which that is worth a word."""
    found = {step: alone(run.records(step)) for step in run.stages}
    return {step: one.said for step, one in found.items() if one and one.seconds >= LITTLE * one.wall_s}


def superlinear(efficiency: float, one: Sequence[dict[str, Any]], many: Sequence[dict[str, Any]]) -> str:
    """Return what explains an E above 1, empty where it is none: does a worker's share fit its cache, and all did not?

    one, many: records of a stage of one worker and of p.
    """
    if efficiency <= BEYOND:
        return ""
    cache = min((r["hardware"].get("cache_bytes", 0) for r in many), default=0)
    sets = [_read(records) for records in (one, many)]
    if not cache or not all(sets):
        return f"E = {efficiency:.2f}: the records do not tell a cache to hold it against"
    shares = f"a worker reads {amount(sets[1])} beside {amount(sets[0])} of one, its cache holds {amount(cache)}"
    if sets[1] <= cache < sets[0]:
        return f"E = {efficiency:.2f}: {shares}: its share fits, the whole did not"
    return f"E = {efficiency:.2f}: {shares}: that explains nothing; look at T of one worker, and repeat it"


def _read(records: Sequence[dict[str, Any]]) -> float:
    """Return the bytes that a worker reads, in the mean."""
    workers = {(r["job_id"], r["array_task_id"], r["host"], r["rank"]) for r in records}
    return float(sum(r["bytes_read"] for r in records)) / max(1, len(workers))
