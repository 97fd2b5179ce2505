"""`rag-hpc forecast RUN ... p=8,16`: T at numbers of workers that were not run, from the records of runs that were.

Where the runs' T follow a law of scaling (eval/laws.py), T is the law's. Else the measured units are dealt out again as
workers take them; what the runs took beyond that stays in proportion. Runs of two p tell how much slower units get
where more workers run, and how they vary; one run does not, and its band is that of an assumed noise. Queue and set-up
stand beside T, and count towards a deadline.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, number_between, whole_number
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.dealt import BAND, Units
from rag_hpc.eval.laws import Share, fit
from rag_hpc.eval.results import Results, by_stage, named_once
from rag_hpc.eval.text import aligned, duration
from rag_hpc.eval.times import StageTime, speedups

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

PS = "2,4,8,16,32"


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """T of one stage at p workers, seconds."""

    stage: str
    p: int
    seconds: float
    low: float
    high: float
    by: str  # the law, or "units"
    workers: int  # that have anything to do: no more than units
    beside_s: float = 0.0  # queue and set-up of a worker, in the pilots' mean: not in T, but before it
    wants_cores: float = 0.0  # that so many workers keep busy, by the pilots'
    has_cores: int = 0  # of the one machine that all workers share; 0 where more of them may be given more

    @property
    def short_of_cores(self) -> bool:
        """Whether the workers will wait for cores, which no pilot within them can tell of: T is then a lower bound."""
        return bool(self.has_cores) and self.wants_cores > self.has_cores


def forecast(arguments: Arguments) -> int:
    """Print T of each stage at each p, with its band, and the p for a deadline or a budget; 1 where none will do."""
    if not arguments.words:
        raise ConfigError("name the pilot runs: rag-hpc forecast RUN [RUN ...] p=8,16; see: rag-hpc list")
    runs = named_once(arguments, arguments.words, together=True)
    runs.sort(key=lambda run: int(run.submission["workers"]))
    ps = sorted({whole_number("p", word.strip(), 1, least=1) for word in (arguments.override("p") or PS).split(",")})
    rows = predict(runs, ps)
    if not rows:
        raise InputError(
            f"{runs[0].name}: no stage is finished in all of these runs; go on with it first: rag-hpc status"
        )
    totals = {p: _total([row for row in rows if row.p == p]) for p in ps}
    limits = {
        key: number_between(key, given, 0.0, math.inf)
        for key in ("deadline_h", "worker_h")
        if (given := arguments.override(key)) is not None
    }
    beside = {p: math.fsum(row.beside_s for row in rows if row.p == p) for p in ps}
    best = _best(totals, beside, limits)
    if "--json" in arguments.flags:
        value: dict[str, Any] = {
            "runs": [run.name for run in runs],
            "stages": [dataclasses.asdict(row) for row in rows],
        }
        value["beside_s"] = {str(p): seconds for p, seconds in beside.items()}
        value["totals"] = {str(p): dataclasses.asdict(total) for p, total in totals.items()}
        print(as_json({**value, "limits": limits, "best_p": best}))
    else:
        print(_table(rows, totals, beside))
        if limits:
            print(f"\n{_said(best, limits)}")
    return 1 if limits and best is None else 0


def predict(runs: Sequence[Results], ps: Sequence[int]) -> list[Forecast]:
    """Return a row for each stage that all runs have finished, and p."""
    pilot = runs[0]
    measured = [{row.stage: row.run for row in speedups(run, run)} for run in runs]
    rows = []
    for stage, steps in by_stage(pilot.stages).items():
        if not all(stage in times for times in measured):
            continue
        by_p: dict[int, list[float]] = {}
        for times in measured:
            by_p.setdefault(times[stage].p, []).append(times[stage].wall_s)
        chosen = fit(by_p).fit
        units = [Units.of(runs, step) for step in steps]
        beside = statistics.fmean(_beside(times[stage]) for times in measured)
        busy, cores = statistics.fmean(_busy(times[stage]) for times in measured), _shared_cores(runs, steps[0])
        for p in ps:
            workers = max((min(p, len(one.seconds)) for one in units), default=1)
            if chosen is not None:
                seen, by = chosen.seconds(workers, BAND), chosen.law
            else:
                seen, by = _added([one.seconds_at(p) for one in units]), "units"
            rows.append(
                Forecast(
                    stage=stage,
                    p=p,
                    seconds=seen.value,
                    low=seen.low,
                    high=seen.high,
                    by=by,
                    workers=workers,
                    beside_s=beside,
                    wants_cores=busy * workers,
                    has_cores=cores,
                )
            )
    return rows


def _added(parts: Sequence[Share]) -> Share:
    """Return the sum of steps that run one after another; their errors are independent."""
    value = math.fsum(part.value for part in parts)
    below = math.hypot(*(part.value - part.low for part in parts)) if parts else 0.0
    above = math.hypot(*(part.high - part.value for part in parts)) if parts else 0.0
    return Share(value=value, low=max(0.0, value - below), high=value + above)


def _total(rows: Sequence[Forecast]) -> Share:
    return _added([Share(value=row.seconds, low=row.low, high=row.high) for row in rows])


def _beside(time: StageTime) -> float:
    return (time.queue_s or 0.0) + time.per_worker["setup"]


def _busy(time: StageTime) -> float:
    """Return the cores that a worker keeps busy while it has work."""
    return time.cpu_s / time.wall_s / time.num_workers if time.wall_s > 0 and time.num_workers else 0.0


def _shared_cores(runs: Sequence[Results], step: str) -> int:
    """Return the cores of the machine that all workers are on; 0 where a scheduler finds more of them elsewhere.

    Hosts that are one machine, as a development cluster's are, share its cores.
    """
    records = [record for run in runs for record in run.records(step)]
    machines = {record["hardware"].get("machine") for record in records}
    alone = len(machines) == 1 and None not in machines
    elsewhere = any(run.submission["cluster"].get("launcher") == "slurm" for run in runs)
    if not alone or (elsewhere and len({record["host"] for record in records}) == 1):
        return 0
    return int(records[0]["hardware"].get("cores", 0))


def _best(totals: dict[int, Share], beside: dict[int, float], limits: dict[str, float]) -> int | None:
    """Return the fewest workers that end before the deadline for certain, queue and set-up included; without a deadline
    the most in the budget."""
    within = [
        p
        for p, total in totals.items()
        if total.high + beside[p] <= 3600 * limits.get("deadline_h", math.inf)
        and p * total.high <= 3600 * limits.get("worker_h", math.inf)
    ]
    return (min if "deadline_h" in limits else max)(within, default=None)


def _table(rows: Sequence[Forecast], totals: dict[int, Share], beside: dict[int, float]) -> str:
    cells = []
    for row in rows:
        band = f"{duration(row.low)} to {duration(row.high)}"
        notes = [f"only {row.workers} have a unit"] if row.workers < row.p else []
        if row.short_of_cores:
            notes.append(f"at least: they want {row.wants_cores:.1f} of {row.has_cores} cores")
        cells.append(
            (row.stage, str(row.p), duration(row.seconds), band, duration(row.beside_s), row.by, "; ".join(notes))
        )
    for p, total in totals.items():
        band = f"{duration(total.low)} to {duration(total.high)}"
        hours = f"{p * total.value / 3600:.3g} worker-hours"
        cells.append(("all, one after another", str(p), duration(total.value), band, duration(beside[p]), "", hours))
    return aligned(("stage", "p", "T", "90 % band", "queue, set-up", "by", ""), cells)


def _said(best: int | None, limits: dict[str, float]) -> str:
    asked = " and ".join(f"{key}={value:g}" for key, value in limits.items())
    return f"for {asked}: p = {best}" if best else f"for {asked}: none of these p; ask for others, or for more"
