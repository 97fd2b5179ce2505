"""Side by side in one run: the sides take turns in random order, and the ratio of their medians gets an interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import ConfigError

MIN_PAIRS = 7
RESAMPLES = 2000


@dataclass(kw_only=True)
class Timed:
    """What the sides measured, round by round (the same round is the same place in every list)."""

    values: dict[str, list[float]]
    contention: float | None  # the largest CPU pressure seen between two measurements, percent

    def median(self, side: str) -> float:
        """Return the median of one side."""
        return statistics.median(self.values[side])

    def ratio(self, peer: str, ours: str = "ours") -> tuple[float, tuple[float, float]]:
        """Return ours over the peer as a ratio of medians, and its paired-bootstrap 95 percent interval."""
        return ratio_of_medians(self.values[ours], self.values[peer])


def take_turns(sides: Mapping[str, Callable[[], float]], num_pairs: int = MIN_PAIRS, seed: int = 0) -> Timed:
    """Run every side `num_pairs` times, each round in a random order; a side returns its figure (a rate, say).

    Warm up (compile, import, cache files) before this. Raises ConfigError for fewer than MIN_PAIRS rounds.
    """
    if num_pairs < MIN_PAIRS:
        raise ConfigError(f"{num_pairs} pairs are too few for an interval: at least {MIN_PAIRS}")
    order, rng, values = list(sides), random.Random(seed), {side: [] for side in sides}  # type: ignore[var-annotated]
    pressures = [pressure_cpu()]
    for _ in range(num_pairs):
        rng.shuffle(order)
        for side in order:
            values[side].append(float(sides[side]()))
            pressures.append(pressure_cpu())
    return Timed(values=values, contention=max((p for p in pressures if p is not None), default=None))


def difference_of_means(
    ours: Sequence[float], peer: Sequence[float], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return mean(ours) - mean(peer) and its 95 percent interval by resampling pairs (Efron, Tibshirani 1993)."""
    if len(ours) != len(peer) or not ours:
        raise ConfigError(f"pairs need sides of equal length, not {len(ours)} and {len(peer)}")
    gains_P = np.asarray(ours, dtype=np.float64) - np.asarray(peer, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(gains_P), size=(RESAMPLES, len(gains_P)))
    low, high = np.quantile(gains_P[drawn].mean(axis=1), (0.025, 0.975))
    return float(gains_P.mean()), (float(low), float(high))


def ratio_of_medians(ours: Sequence[float], peer: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return median(ours) / median(peer) and its 95 percent interval by resampling pairs (Efron, Tibshirani 1993)."""
    if len(ours) != len(peer) or not ours:
        raise ConfigError(f"pairs need sides of equal length, not {len(ours)} and {len(peer)}")
    rng, found = random.Random(seed), []
    for _ in range(RESAMPLES):
        picked = [rng.randrange(len(ours)) for _ in ours]
        found.append(statistics.median(ours[i] for i in picked) / statistics.median(peer[i] for i in picked))
    found.sort()
    low, high = found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1]
    return statistics.median(ours) / statistics.median(peer), (low, high)
