"""`rag-hpc forecast RUN ... p=8,16`: T at numbers of workers that were not run, from the records of runs that were.

Where the runs' T follow a law of scaling (eval/laws.py), T is the law's. Else the measured units are dealt out again as
workers take them; what the runs took beyond that stays in proportion. Runs of two p tell how much slower units get
where more workers run, and how they vary; one run does not, and its band is that of an assumed noise. Queue and set-up
stand beside T, and count towards a deadline.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.arguments import as_json, number_between, whole_number
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.laws import Share, fit
from rag_hpc.eval.results import Results, by_stage, named
from rag_hpc.eval.text import aligned, duration
from rag_hpc.eval.times import StageTime, speedups, step_times

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

DRAWS, BAND = 400, 0.90
NOISE, RUN_NOISE = 0.10, 0.03  # of a unit where one pilot cannot tell; of all units of a run together
LEAST_S = 1e-4
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


def forecast(arguments: Arguments) -> int:
    """Print T of each stage at each p, with its band, and the p for a deadline or a budget; 1 where none will do."""
    if not arguments.words:
        raise ConfigError("name the pilot runs: rag-hpc forecast RUN [RUN ...] p=8,16; see: rag-hpc list")
    runs = sorted((named(arguments, name) for name in arguments.words), key=lambda run: int(run.submission["workers"]))
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
                )
            )
    return rows


@dataclass(frozen=True, kw_only=True)
class Units:
    """What each unit of a step takes one worker, and how that varies."""

    seconds: tuple[float, ...]  # in the order in which workers take them
    beyond: float  # T of the runs in that of their units dealt out again
    slower: float  # exponent of p: how much longer a unit takes where more workers run
    noise: float  # standard deviation of a unit's log seconds from run to run
    ps: tuple[int, ...] = ()  # of the runs

    @classmethod
    def of(cls, runs: Sequence[Results], step: str) -> Units:
        """Return those of a step that all runs have finished; a unit's gap to its worker's next one counts as its own.

        With one run, or units that were cut otherwise, nothing tells how they vary: NOISE is assumed.
        """
        ps, rows, walls = list[int](), list[list[float]](), list[float]()
        for run in runs:
            records = run.records(step)
            gap = _gap(records)
            row = [max(LEAST_S, record["ended_unix"] - record["started_unix"]) + gap for record in records]
            time = next((time for time in step_times(run) if time.stage == step), None)
            if time and (not rows or len(row) == len(rows[0])):
                ps.append(time.p)
                rows.append(row)
                walls.append(time.wall_s)
        return cls.measured(ps, rows, walls) if rows else cls(seconds=(), beyond=1.0, slower=0.0, noise=NOISE)

    @classmethod
    def measured(cls, ps: Sequence[int], rows: Sequence[Sequence[float]], walls: Sequence[float]) -> Units:
        """Return the units of R runs: each run's p, seconds of its units, and T."""
        beyond = [math.log(max(LEAST_S, t) / dealt_out(row, p)) for p, row, t in zip(ps, rows, walls, strict=True)]
        logs_RN, log_p_R = np.log(np.array(rows)), np.log(np.array(ps, dtype=np.float64))
        of_run_R = (logs_RN - logs_RN.mean(axis=0)).mean(axis=1)
        spread = log_p_R - log_p_R.mean()
        slower = max(0.0, float(spread @ of_run_R / (spread @ spread))) if np.ptp(log_p_R) > 0 else 0.0
        alone_RN = logs_RN - slower * log_p_R[:, None]
        off_RN = alone_RN - alone_RN.mean(axis=0)
        noise = math.sqrt(float((off_RN**2).sum()) / (off_RN.size - off_RN.shape[1])) if len(rows) > 1 else NOISE
        seconds = np.exp(alone_RN.mean(axis=0))
        return cls(
            seconds=tuple(seconds.tolist()), beyond=math.exp(np.mean(beyond)), slower=slower, noise=noise, ps=tuple(ps)
        )

    def _reach(self, p: int) -> float:
        """Return by how much the error of a run to come exceeds a run's own: as of a line through the runs' log p."""
        logs_R = np.log(np.array(self.ps, dtype=np.float64))
        spread = float(((logs_R - logs_R.mean()) ** 2).sum())
        ahead = (math.log(p) - float(logs_R.mean())) ** 2 / spread if spread > 0 else 0.0
        return math.sqrt(1 + 1 / len(logs_R) + ahead)

    def seconds_at(self, p: int) -> Share:
        """Return the median of T at p workers over draws of the units' noise, and its band."""
        if not self.seconds:
            return Share(value=0.0, low=0.0, high=0.0)
        rng, units_N = np.random.default_rng(0), np.array(self.seconds)
        working = min(p, len(units_N))
        factor = self.beyond * working**self.slower
        drawn = [
            factor * dealt_out((units_N * np.exp(rng.normal(0.0, self.noise, len(units_N)))).tolist(), p)
            for _ in range(DRAWS)
        ]
        run_noise = math.hypot(RUN_NOISE, self.noise / math.sqrt(len(units_N)))
        of_run = np.exp(rng.normal(0.0, run_noise * self._reach(working), DRAWS))
        low, middle, high = np.quantile(np.array(drawn) * of_run, [(1 - BAND) / 2, 0.5, (1 + BAND) / 2])
        return Share(value=float(middle), low=float(low), high=float(high))


def dealt_out(seconds: Sequence[float], p: int) -> float:
    """Return when the last of p workers ends, each taking its next unit as soon as it has ended one.

    As core/take.py has it: a worker's own stripe first, then others' units from the far end.
    """
    p = min(p, len(seconds))
    free = [(0.0, worker) for worker in range(p)]
    own = list(range(p))  # each worker's next unit
    begun, last = [False] * len(seconds), len(seconds) - 1
    for _ in seconds:
        at, worker = free[0]
        while own[worker] < len(seconds) and begun[own[worker]]:
            own[worker] += p
        while begun[last]:
            last -= 1
        unit = own[worker] if own[worker] < len(seconds) else last
        begun[unit] = True
        heapq.heapreplace(free, (at + seconds[unit], worker))
    return max((at for at, _ in free), default=0.0)


def _gap(records: Sequence[dict[str, Any]]) -> float:
    """Return the median time between two units of a worker."""
    workers: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = tuple(record[name] for name in ("submission", "job_id", "array_task_id", "restarts", "host", "rank"))
        workers.setdefault(key, []).append(record)
    gaps = [
        after["started_unix"] - before["ended_unix"]
        for own in workers.values()
        for before, after in pairwise(sorted(own, key=lambda record: float(record["started_unix"])))
    ]
    return max(0.0, statistics.median(gaps)) if gaps else 0.0


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
        note = f"only {row.workers} have a unit" if row.workers < row.p else ""
        cells.append((row.stage, str(row.p), duration(row.seconds), band, duration(row.beside_s), row.by, note))
    for p, total in totals.items():
        band = f"{duration(total.low)} to {duration(total.high)}"
        hours = f"{p * total.value / 3600:.3g} worker-hours"
        cells.append(("all, one after another", str(p), duration(total.value), band, duration(beside[p]), "", hours))
    return aligned(("stage", "p", "T", "90 % band", "queue, set-up", "by", ""), cells)


def _said(best: int | None, limits: dict[str, float]) -> str:
    asked = " and ".join(f"{key}={value:g}" for key, value in limits.items())
    return f"for {asked}: p = {best}" if best else f"for {asked}: none of these p; ask for others, or for more"
