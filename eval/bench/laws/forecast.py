"""Bench `forecast`: T that was foretold from pilots, against T that was measured, and whether the band is honest.

The demo's pages are crawled by 1, 2 and 8 workers, and what 8 take is foretold from the other two: each host answers
once a while, so that workers wait and do not compute. Pilots of 1 and 2 workers are also simulated, with units of
unequal length that get slower where more workers run, and runs of 8 workers after them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import RagHpcError
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.dealt import BAND, RUN_NOISE, Units, dealt_out
from rag_hpc.eval.forecast import predict
from rag_hpc.eval.results import Results
from rag_hpc.eval.times import stage_times

DEFAULTS = {"pilots": "500", "pages": "400", "root": ""}
ERROR_BAR, HALF_BAR, HELD_BARS = 0.10, 0.25, (0.86, 0.94)
PILOTS, AHEAD = (1, 2), 8


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of the crawl and of the simulated pilots. Options: pilots, pages, root (keeps the runs)."""
    given = known(options, DEFAULTS)
    with tempfile.TemporaryDirectory() as temporary:
        return [*crawl_rows(Path(given["root"] or temporary).absolute(), int(given["pages"])), *held_rows(given)]


def crawl_rows(root: Path, pages: int) -> list[Row]:
    """Return rows of T of a crawl with eight workers."""
    workers = ",".join(map(str, (*PILOTS, AHEAD)))
    words = ["run", f"workers={workers}", "run=pilot", f"cluster.root={root}", f"corpus.max_pages={pages}"]
    words += ["pipeline=corpus", "pipeline.stages=[crawl]", "corpus=pydoc"]
    done = subprocess.run([sys.executable, "-m", "rag_hpc.cli", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RagHpcError(f"bench: the crawls could not be made: {done.stderr.strip()[-2000:]}")
    pilots = [Results(root / f"pilot-w{p}") for p in PILOTS]
    (told,) = predict(pilots, [AHEAD])
    (measured,) = stage_times(Results(root / f"pilot-w{AHEAD}"))
    error, half = abs(told.seconds / measured.wall_s - 1), (told.high - told.low) / 2 / told.seconds
    right = error <= ERROR_BAR or (told.low <= measured.wall_s <= told.high and half <= HALF_BAR)
    return [
        Row(
            name="forecast.crawl",
            ours=told.seconds,
            unit=f"s, T({AHEAD}) foretold",
            peers={"measured": measured.wall_s},
            ratio=told.seconds / measured.wall_s,
            contention=pressure_cpu(),
            note=f"from p = 1 and 2; {100 * BAND:.0f} % band {told.low:.2f} to {told.high:.2f} s",
        ),
        Row(
            name="forecast.crawl.right",
            ours=float(right),
            unit=f"1 where it is off by <= {ERROR_BAR:g}, or in a band of half-width <= {HALF_BAR:g}",
            bar=1.0,
            note=f"off by {error:.3f}, half-width {half:.3f}",
        ),
    ]


def held_rows(given: dict[str, str]) -> list[Row]:
    """Return how often the band holds T of a run that follows simulated pilots."""
    rng = np.random.default_rng(0)
    drawn = [simulated(rng) for _ in range(int(given["pilots"]))]
    held = statistics.fmean(low <= true <= high for low, _, high, true in drawn)
    error = statistics.median(abs(middle / true - 1) for _, middle, _, true in drawn)
    least, most = HELD_BARS
    note = f"{len(drawn)} pilots; median error of T {error:.3f}"
    unit = f"share of {100 * BAND:.0f} % bands that hold T({AHEAD})"
    return [
        Row(name="forecast.held", ours=held, unit=unit, bar=least, note=note),
        Row(name="forecast.held.most", ours=held, unit=unit, bar=most, less_is_better=True),
    ]


def simulated(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return the band's low end, the forecast, the band's high end, and T, of units drawn at random."""
    num = int(rng.integers(12, 65))
    true_N = rng.lognormal(0.0, rng.choice([0.2, 0.5, 1.0]), num)
    slower, noise = rng.choice([0.0, 0.1, 0.3]), rng.choice([0.03, 0.1, 0.2])
    runs = {
        p: true_N * p**slower * np.exp(rng.normal(0.0, noise, num) + rng.normal(0.0, RUN_NOISE))
        for p in (*PILOTS, AHEAD)
    }
    rows = [runs[p].tolist() for p in PILOTS]
    units = Units.measured(PILOTS, rows, [dealt_out(row, p) for p, row in zip(PILOTS, rows, strict=True)])
    told = units.seconds_at(AHEAD)
    return told.low, told.value, told.high, dealt_out(runs[AHEAD].tolist(), AHEAD)
