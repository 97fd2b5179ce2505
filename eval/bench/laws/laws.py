"""Bench `laws`: on simulated runs, whose law is known, does the fit find it, and is its interval honest?

A design is a law with its shares, the p that are run, repeats and noise, each drawn with a seed. The forecast of T at
four times the largest p stands beside Extra-P's of the same times, extrap=PYTHON naming an interpreter that has it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import RESAMPLES
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.laws import LAWS, Chosen, Fit, fit, usl

DEFAULTS = {"runs": "2000", "extrap": ""}
HELD_BARS, BIAS_BAR, RIGHT_BAR = (0.93, 0.97), 0.05, 0.90
AHEAD = 4  # times the largest p that is run
T1_S = 100.0
REPEATS, RESAMPLED = (3, 5, 10), 100  # at a p; runs whose interval is made by bootstrap too


@dataclass(frozen=True, kw_only=True)
class Run:
    """Simulated times at each p, and the truth behind them."""

    law: str
    serial: float
    crosstalk: float
    noise: float
    times: dict[int, list[float]]

    @property
    def at(self) -> int:
        """The p of the forecast."""
        return AHEAD * max(self.times)

    def seconds(self, p: int) -> float:
        """Return the true T(p)."""
        return T1_S / usl(self.serial, self.crosstalk, p)


def run(options: dict[str, str]) -> list[Row]:
    """Return rows of coverage, bias, choice and forecast. Options: runs (simulated), extrap (an interpreter)."""
    given = known(options, DEFAULTS)
    rng = np.random.default_rng(0)
    runs = [simulated(rng) for _ in range(int(given["runs"]))]
    found = [fit(one.times) for one in runs]
    return [*truth_rows(runs, found), *forecast_rows(runs, found, given["extrap"])]


def simulated(rng: np.random.Generator) -> Run:
    """Return a run of a design drawn at random."""
    law = str(rng.choice(["Amdahl", "USL"]))
    ps = [2**n for n in range(int(rng.integers(5, 7)))]  # 1 to 16, or to 32
    # shares that show: a law whose term is lost in the noise is not the wrong one to miss
    serial = float(rng.choice([0.02, 0.05, 0.1, 0.2]))
    crosstalk = float(rng.choice([0.001, 0.002, 0.005])) if law == "USL" else 0.0
    noise, repeats = float(rng.choice([0.01, 0.02, 0.03])), int(rng.choice(REPEATS))
    drawn = {p: rng.normal(0.0, noise, repeats) for p in ps}
    times = {p: (T1_S / usl(serial, crosstalk, p) * np.exp(drawn[p])).tolist() for p in ps}
    return Run(law=law, serial=serial, crosstalk=crosstalk, noise=noise, times=times)


def truth_rows(runs: Sequence[Run], found: Sequence[Chosen]) -> list[Row]:
    """Return whether intervals hold the truth, the bias of the serial share, and whether the law is the true one."""
    true = [(one, _fit_of(one.law, chosen)) for one, chosen in zip(runs, found, strict=True)]
    held = [f.serial.low <= one.serial <= f.serial.high for one, f in true if f.serial]
    talk = [f.crosstalk.low <= one.crosstalk <= f.crosstalk.high for one, f in true if f.crosstalk]
    noisy = [f.serial.value / one.serial - 1 for one, f in true if f.serial and one.noise == 0.03]
    right = [c.fit is not None and c.fit.law == one.law for one, c in zip(runs, found, strict=True)]
    least, most = HELD_BARS
    rows = []
    for name, values in (("serial", held), ("crosstalk", talk)):
        rate, interval = statistics.fmean(values), _share_interval(values)
        note = (
            f"{len(values)} runs, 95 % intervals of the true law's fit; interval {interval[0]:.3f} to {interval[1]:.3f}"
        )
        rows.append(Row(name=f"laws.held.{name}", ours=rate, unit="share of intervals", bar=least, note=note))
        rows.append(
            Row(name=f"laws.held.{name}.most", ours=rate, unit="share of intervals", bar=most, less_is_better=True)
        )
    few = [one for one in runs if one.law == "Amdahl" and len(one.times[1]) == min(REPEATS)][:RESAMPLED]
    if few:
        rows[0].peers = {f"bootstrap of {min(REPEATS)} repeats": statistics.fmean(map(_held_by_bootstrap, few))}
    bias = statistics.fmean(noisy)
    return [
        *rows,
        Row(
            name="laws.bias",
            ours=abs(bias),
            unit="of the serial share, relative, at 3 % noise",
            bar=BIAS_BAR,
            less_is_better=True,
            note=f"{len(noisy)} runs, mean {bias:+.4f}",
        ),
        Row(
            name="laws.right",
            ours=statistics.fmean(right),
            unit="share of runs whose law is chosen",
            ratio=statistics.fmean(right),
            interval=_share_interval(right),
            bar=RIGHT_BAR,
            note=f"{len(right)} runs",
        ),
    ]


def forecast_rows(runs: Sequence[Run], found: Sequence[Chosen], extrap: str) -> list[Row]:
    """Return the median relative error of T at four times the largest p, beside Extra-P's, and the band's honesty."""
    fits = [(one, chosen.fit) for one, chosen in zip(runs, found, strict=True) if chosen.fit]
    ours = [abs(f.seconds(one.at).value / one.seconds(one.at) - 1) for one, f in fits]
    row = Row(
        name="laws.forecast",
        ours=statistics.median(ours),
        unit=f"median relative error of T at {AHEAD} times the largest p",
        less_is_better=True,
        note=f"{len(fits)} runs; the law as it was chosen",
    )
    if not extrap:
        row.note += "; Extra-P: not asked, extrap=PYTHON names an interpreter that has it"
        return [row]
    told = _told(extrap, [one for one, _ in fits])
    theirs = [abs(seconds / one.seconds(one.at) - 1) for seconds, (one, _) in zip(told, fits, strict=True)]
    row.peers, row.bar = {"Extra-P": statistics.median(theirs)}, 1.0
    row.ratio, row.interval = _ratio(ours, theirs)
    row.note += f"; Extra-P off by more than half in {statistics.fmean(e > 0.5 for e in theirs):.2f} of them"
    row.note += f", ours in {statistics.fmean(e > 0.5 for e in ours):.2f}"
    return [row]


def _fit_of(law: str, chosen: Chosen) -> Fit:
    """Return the fit of the true law, chosen or not: designs are large enough for each."""
    return next(one for one in (chosen.fit, *chosen.others) if one and one.law == law and law in LAWS)


def _held_by_bootstrap(one: Run) -> bool:
    """Return whether the 95 % interval that most scripts print, percentiles over resampled repeats, holds the truth."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        times = {p: rng.choice(seconds, len(seconds)).tolist() for p, seconds in one.times.items()}
        found.append(_fit_of(one.law, fit(times)).serial)
    low, high = np.quantile([share.value for share in found if share], [0.025, 0.975])
    return bool(low <= one.serial <= high)


def _told(python: str, runs: Sequence[Run]) -> list[float]:
    asked: list[Mapping[str, object]] = [{"times": one.times, "at": one.at} for one in runs]
    script = str(Path(__file__).with_name("extrap_peer.py"))
    done = subprocess.run([python, "-P", script], input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"extrap={python}: {done.stderr.strip()[-500:]}")
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def _share_interval(values: Sequence[bool]) -> tuple[float, float]:
    draws = np.random.default_rng(0).binomial(len(values), statistics.fmean(values), RESAMPLES) / len(values)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the ratio of the medians, and its interval by bootstrap over the runs, pairs kept."""
    errors = np.array([ours, theirs])
    rows = np.random.default_rng(0).integers(0, errors.shape[1], (1000, errors.shape[1]))
    ratios = np.median(errors[0][rows], axis=1) / np.median(errors[1][rows], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(errors[0]) / np.median(errors[1])), (float(low), float(high))
