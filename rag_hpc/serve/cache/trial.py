"""Whether semantic hits may be served: an upper bound of the share of false ones, from answers made anew."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)
LEVEL = 0.05  # that the bound is ever below the truth, however often it is looked at
PRIOR = (0.5, 100.0)  # of the mixture's beta distribution: bounds are narrowest where errors are about 0.5 percent


class State(NamedTuple):
    """Where a trial stands."""

    serving: bool
    checked: int
    false: int
    bound: float
    why: str


def upper_bound(false: int, checked: int, level: float = LEVEL) -> float:
    """Return a bound of the share of false ones that holds at all times at once, with probability 1 - level.

    A bound for one sample size (Clopper, Pearson) that is looked at after every hit is passed sooner or later; this is
    the largest p that a beta mixture's likelihood ratio does not refute. Source: Robbins 1970; Howard et al. 2021, 4.4.
    """
    if not checked:
        return 1.0
    a, b = PRIOR
    mixed = _log_beta(a + false, b + checked - false) - _log_beta(a, b)

    def refuted(p: float) -> bool:
        return mixed - false * math.log(p) - (checked - false) * math.log(1 - p) >= math.log(1 / level)

    low, high = max(false / checked, 1e-12), 1 - 1e-12
    if low >= high or not refuted(high):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


class Trial:
    """The checks of semantic hits so far. Hits are served once enough were checked, and as long as they hold."""

    def __init__(
        self, max_error: float, verify_share: float, draw: Callable[[], float], *, checked: int = 0, false: int = 0
    ) -> None:
        """draw: random numbers from 0 to 1. checked, false: of checks made before, over the same questions."""
        self._max_error, self._share, self._draw, self._lock = max_error, verify_share, draw, threading.Lock()
        self._checked, self._false = checked, false
        self._serving = upper_bound(false, checked) <= max_error

    @property
    def state(self) -> State:
        """Where the trial stands."""
        with self._lock:
            bound = upper_bound(self._false, self._checked)
            told = f"{self._false} of {self._checked} checked were false, at most {bound:.2%} are"
            why = f"{told}; {self._max_error:.2%} are allowed"
            return State(self._serving, self._checked, self._false, bound, why)

    def serves(self) -> bool:
        """Return whether a hit is to be served; else it is answered anew and `record`ed."""
        with self._lock:
            return self._serving and self._draw() >= self._share

    def record(self, *, same: bool) -> None:
        """Count a hit that was answered anew: with the same answer, or another."""
        with self._lock:
            self._checked += 1
            self._false += not same
            bound = upper_bound(self._false, self._checked)
            changed = self._serving != (bound <= self._max_error)
            self._serving = bound <= self._max_error
        if changed:
            state = self.state
            log.log(
                logging.INFO if state.serving else logging.WARNING,
                "semantic cache: %s (%s)",
                "on" if state.serving else "off",
                state.why,
            )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
