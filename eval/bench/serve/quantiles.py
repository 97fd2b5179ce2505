"""Quantiles of a load, their intervals, and how many samples one needs to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = (0.5, 0.95, 0.99)
ENOUGH = {0.5: 100, 0.95: 200, 0.99: 10_000}  # samples, below which a quantile is shown and not judged
RESAMPLES = 500


def quantile(values: Sequence[float], at: float) -> float:
    """Return a value that was seen: the smallest that a share of `at` of them does not pass."""
    return float(np.quantile(values, at, method="higher"))


def interval(values: Any, at: float) -> tuple[float, float]:
    """Return the 95 percent interval of a quantile, by resampling requests."""
    values, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(0)
    drawn = [quantile(values[rng.integers(len(values), size=len(values))], at) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return float(low), float(high)
