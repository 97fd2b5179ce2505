"""Measured units dealt out to workers again, by which T at numbers of workers that were not run is foretold."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rag_hpc.eval.laws import Share
from rag_hpc.eval.results import Results
from rag_hpc.eval.times import step_times

DRAWS, BAND = 400, 0.90
NOISE, RUN_NOISE = 0.10, 0.03  # of a unit where one pilot cannot tell; of all units of a run together
LEAST_S = 1e-4


@dataclass(frozen=True, kw_only=True)
class Units:
    """What each unit of a step takes one worker, and how that varies."""

    seconds: tuple[float, ...]  # by unit
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
