"""What `rag-hpc bench serve` measured of a run that was served, and the plan's milestone of serving.

RUN/load/ROUTE-RATE.json   the latest load of that rate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import publish_file
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.eval.results import Results
from rag_hpc.eval.verdicts import HIT, MISSED, NOT_JUDGED, Milestone, unjudged

FOLDER = "load"
ENOUGH = 10_000  # requests, below which their 99th percentile is told and not judged
FIRST_WORDS, WHOLE = "to the first words", "to the whole reply"


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load: requests sent when they were due, whatever became of those before."""

    route: str
    qps: float  # that were sent on average
    seconds: float
    requests: int
    failed: int  # they count as having taken for ever
    until: str  # what the milliseconds are counted to, from when a request was due
    p99_ms: float | None  # None: for ever
    low_ms: float | None  # of its 95 percent interval
    high_ms: float | None
    compared: int  # answers that the batch job has as well
    same: int  # of them
    processor: str
    contention: float | None
    unix: float


def write(run_dir: Path, load: Load) -> Path:
    """Keep a load in the run's folder, in the place of an earlier one of its route and rate; return the file."""
    path = run_dir / FOLDER / f"{load.route}-{load.qps:g}.json"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    publish_file(path, sealed_json(dataclasses.asdict(load)), overwrite=True)
    return path


def loads_of(run_dir: Path) -> list[Load]:
    """Return the loads of a run, the lowest rates first. Raises CorruptOutput."""
    paths = sorted((run_dir / FOLDER).glob("*.json"))
    found = [
        read_object(path, "remove it, and measure again: rag-hpc bench serve", lambda value: typed(Load, value))
        for path in paths
    ]
    return sorted(found, key=lambda load: load.qps)


def rows(run: Results, predicted: dict[str, Any]) -> Iterator[Milestone]:
    """Yield the 99th percentile at the rate that is predicted, or at each that was measured where none is."""
    bound, least = predicted.get("max_p99_ms"), predicted.get("min_qps")
    found = [load for load in loads_of(run.run_dir) if load.qps >= (least or 0)]
    if (bound is not None or least is not None) and not found:
        rate = f"{least:g}" if least else "RATE"
        how = f"rag-hpc bench serve run={run.name} qps={rate} seconds={ENOUGH / (least or 1):.0f}"
        yield unjudged(f"p99 at {rate} requests/s", _bound(bound), f"not measured: {how}")
    for load in found[:1] if least else found:
        yield _judged(load, bound)


def _judged(load: Load, bound: float | None) -> Milestone:
    """Return the row of a load: hit or missed where the whole interval says so, and answers are the batch job's."""
    p99, low, high = (
        value if value is not None else float("inf") for value in (load.p99_ms, load.low_ms, load.high_ms)
    )
    verdict, said = NOT_JUDGED, [f"{load.requests} requests, {load.failed} failed", load.until]
    if load.same < load.compared:
        verdict = NOT_JUDGED if bound is None else MISSED
        said.append(f"{load.compared - load.same} of {load.compared} answers are not the batch job's")
    elif load.requests < ENOUGH:
        said.append(f"{ENOUGH} requests are needed to judge it")
    elif bound is not None:
        verdict = HIT if high <= bound else MISSED if low > bound else NOT_JUDGED
        said += ["the interval holds the bound: more requests decide"] if verdict == NOT_JUDGED else []
    pressure = "" if load.contention is None else f"; CPU pressure {load.contention:.0f} %"
    return Milestone(
        name=f"p99 at {load.qps:g} requests/s, {load.route}",
        predicted=_bound(bound),
        result=f"{p99:.4g} ms [{low:.4g}, {high:.4g}]",
        verdict=verdict,
        note="; ".join(said) + pressure,
        value=load.p99_ms,
        bound=bound,
        low=load.low_ms,
        high=load.high_ms,
    )


def _bound(bound: float | None) -> str:
    return "–" if bound is None else f"<= {bound:g} ms"
