"""Laws of scaling: what p workers gain, the law that measured times follow, and how sure that is.

T(p) seconds, S(p) = T(1) / T(p), E(p) = S(p) / p. With a serial share s and a share k of talk between each two workers:

    linear     T(p) = T(1) / p
    Amdahl     T(p) = T(1) (s + (1 - s) / p)                  (Amdahl 1967)
    USL        T(p) = T(1) (1 + s (p - 1) + k p (p - 1)) / p  (Gunther 2007)

All three are linear in T(1), T(1) s and T(1) k, so that a fit by weighted least squares has no start to choose.
Noise is a share of T, hence weights of 1 / T(p). Intervals are Student's t by the delta method: on simulated runs
they hold the truth in 95 % of cases where a bootstrap of three repeats within p does in 81 % (`rag-hpc bench laws`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag_hpc.algo.types import F64

LAWS = ("linear", "Amdahl", "USL")  # a law's number of parameters is its place, from 1
ROUNDS = 3  # of weights: by the mean of the repeats, then by the T(p) of the fit before
SPARE = 2  # distinct p beyond a law's parameters that its fit needs
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Share:
    """An estimate with its interval; both may be negative, which no law allows (superlinear)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law with the parameters that fit best. t1_s: seconds of one worker."""

    law: str
    t1_s: Share
    serial: Share | None  # None: the law has none
    crosstalk: Share | None
    aicc: float  # smaller is better
    noise: float  # standard deviation of T in shares of T
    ps: tuple[int, ...]  # distinct, of the times that it was fitted to
    num_times: int
    weights: tuple[float, ...]  # of 1/p, 1 - 1/p and p - 1 in T(p)
    covariance: tuple[tuple[float, ...], ...]  # of the weights

    @property
    def physical(self) -> bool:
        """Whether no share is negative."""
        return all(share is None or share.value >= 0 for share in (self.serial, self.crosstalk))

    @property
    def limit(self) -> float:
        """The largest S that Amdahl's law allows with the lower end of the serial share; infinite for none."""
        low = self.serial.low if self.serial else 0.0
        return 1 / low if low > 0 else math.inf

    def seconds(self, p: float, confidence: float = CONFIDENCE) -> Share:
        """Return T(p) with the interval of one more measurement."""
        terms = _terms([p], len(self.weights))[0]
        value = float(terms @ np.array(self.weights))
        variance = float(terms @ np.array(self.covariance) @ terms) + (self.noise * value) ** 2
        half = student(self.num_times - len(self.weights), confidence) * math.sqrt(variance)
        return Share(value=value, low=max(0.0, value - half), high=value + half)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The law that measured times follow, the others that could be fitted, and why the rest could not."""

    fit: Fit | None
    others: tuple[Fit, ...]
    refused: str  # "" where every law was tried


def amdahl(serial: float, p: float) -> float:
    """Return S(p) with a serial share of the work."""
    return 1 / (serial + (1 - serial) / p)


def gustafson(serial: float, p: float) -> float:
    """Return the scaled S(p): p workers do p times the parallel work in the same time (Gustafson 1988)."""
    return p - serial * (p - 1)


def usl(serial: float, crosstalk: float, p: float) -> float:
    """Return S(p) with a serial share and a share of talk between each two workers."""
    return p / (1 + serial * (p - 1) + crosstalk * p * (p - 1))


def karp_flatt(speedup: float, p: float) -> float | None:
    """Return the serial share that explains one S(p) (Karp and Flatt 1990), None for p = 1.

    Where it grows with p, overhead grows, and no serial code explains it.
    """
    return (1 / speedup - 1 / p) / (1 - 1 / p) if p > 1 else None


def most_workers(serial: float, efficiency: float) -> int | None:
    """Return the largest p whose E is at least this by Amdahl's law, None where every p's is."""
    if serial <= 0:
        return None
    return max(1, math.floor((1 / efficiency - 1 + serial) / serial + 1e-9))


def fit(times: Mapping[int, Sequence[float]]) -> Chosen:
    """Return the law that fits the seconds measured at each p, by AICc among those that are physical.

    A law is tried where there are as many distinct p as it has parameters, and two more.
    """
    ps = sorted(p for p, seconds in times.items() if seconds)
    tried = [_fit(law, num, times, ps) for num, law in enumerate(LAWS, 1) if len(ps) >= num + SPARE]
    left = [f"{law} needs {num + SPARE}" for num, law in enumerate(LAWS, 1) if len(ps) < num + SPARE]
    refused = f"{len(ps)} distinct p: {', '.join(left)}" if left else ""
    possible = sorted((one for one in tried if one.physical), key=lambda one: one.aicc)
    best = possible[0] if possible and len(tried) > 1 else None
    return Chosen(fit=best, others=tuple(one for one in tried if one is not best), refused=refused)


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return the two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _fit(law: str, num: int, times: Mapping[int, Sequence[float]], ps: Sequence[int]) -> Fit:
    seconds_N = np.array([t for p in ps for t in times[p]], dtype=np.float64)
    expected_N = np.array([np.mean(times[p]) for p in ps for _ in times[p]])
    plain_NK = _terms([p for p in ps for _ in times[p]], num)
    for _ in range(ROUNDS):
        terms_NK = plain_NK / expected_N[:, None]
        inverse_KK = np.linalg.inv(terms_NK.T @ terms_NK)
        x_K = inverse_KK @ (terms_NK.T @ (seconds_N / expected_N))
        residual_N = seconds_N / expected_N - terms_NK @ x_K
        expected_N = np.where(plain_NK @ x_K > 0, plain_NK @ x_K, expected_N)
    squares, n = float(residual_N @ residual_N), len(seconds_N)
    covariance_KK = inverse_KK * (squares / (n - num))
    t = student(n - num)
    shares = [_share(x_K, covariance_KK, place, t) for place in range(1, num)]
    return Fit(
        law=law,
        t1_s=_interval(float(x_K[0]), float(covariance_KK[0, 0]), t),
        serial=shares[0] if num > 1 else None,
        crosstalk=shares[1] if num > 2 else None,
        aicc=_aicc(squares, n, num),
        noise=math.sqrt(squares / (n - num)),
        ps=tuple(ps),
        num_times=n,
        weights=tuple(x_K.tolist()),
        covariance=tuple(map(tuple, covariance_KK.tolist())),
    )


def _aicc(squares: float, n: int, num: int) -> float:
    """Return Akaike's criterion for small samples (Hurvich and Tsai 1989); the noise is a parameter too."""
    k = num + 1
    correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf
    return n * math.log(max(squares, 1e-300) / n) + 2 * k + correction


def _terms(ps: Sequence[float], num: int) -> F64:
    """Return what T(p) is a sum of, [N, K]: 1/p of T(1), 1 - 1/p of T(1) s, p - 1 of T(1) k."""
    p = np.array(ps, dtype=np.float64)
    return np.stack([1 / p, 1 - 1 / p, p - 1], axis=1)[:, :num]


def _share(x_K: F64, covariance_KK: F64, place: int, t: float) -> Share:
    """Return x[place] / x[0] with its interval by the delta method."""
    slope_K = np.zeros(len(x_K))
    slope_K[0], slope_K[place] = -x_K[place] / x_K[0] ** 2, 1 / x_K[0]
    return _interval(float(x_K[place] / x_K[0]), float(slope_K @ covariance_KK @ slope_K), t)


def _interval(value: float, variance: float, t: float) -> Share:
    half = t * math.sqrt(max(variance, 0.0))
    return Share(value=value, low=value - half, high=value + half)
