"""A prediction, what came of it, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from rag_hpc.eval.text import share

HIT, MISSED, NOT_JUDGED = "hit", "missed", "not judged"


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """A prediction and what came of it. `value` and `bound` are for scripts, the texts for people."""

    name: str
    predicted: str
    result: str
    verdict: str
    note: str = ""
    value: float | None = None
    bound: float | None = None
    low: float | None = None  # of the value's 95 % interval, where there is one
    high: float | None = None


def at_least(
    name: str, value: float | None, bound: float | None, show: Callable[[float], str], absent: str
) -> Milestone:
    """Return the row of a figure that should reach `bound`; not judged without a bound or a value."""
    if value is None:
        return unjudged(name, bound_text(bound, show), absent)
    verdict = NOT_JUDGED if bound is None else HIT if value >= bound else MISSED
    return Milestone(
        name=name, predicted=bound_text(bound, show), result=show(value), verdict=verdict, value=value, bound=bound
    )


def at_most(
    name: str, value: float | None, bound: float | None, show: Callable[[float], str], absent: str
) -> Milestone:
    """Return the row of a figure that should not pass `bound`; not judged without a bound or a value."""
    predicted = "–" if bound is None else f"<= {show(bound)}"
    if value is None:
        return unjudged(name, predicted, absent)
    verdict = NOT_JUDGED if bound is None else HIT if value <= bound else MISSED
    return Milestone(name=name, predicted=predicted, result=show(value), verdict=verdict, value=value, bound=bound)


def kept(name: str, gain: tuple[float, float, float], most: float) -> Milestone:
    """Return the row of a mean that may fall by `most`: hit or missed where the whole interval of the gain says so.

    gain: the mean difference to the baseline, and its interval's ends.
    """
    value, low, high = gain
    verdict = HIT if low >= -most else MISSED if high < -most else NOT_JUDGED
    row = Milestone(
        name=name,
        predicted=f"loses <= {share(most)}",
        result=f"{value:+.3f} [{low:+.3f}, {high:+.3f}]",
        verdict=verdict,
        value=value,
        bound=-most,
        low=low,
        high=high,
    )
    undecided = "the interval holds the bound: more questions decide"
    return row if verdict != NOT_JUDGED else dataclasses.replace(row, note=undecided)


def bound_text(bound: float | None, show: Callable[[float], str]) -> str:
    """Return a bound as people read it."""
    return "–" if bound is None else f">= {show(bound)}"


def unjudged(name: str, predicted: str, note: str) -> Milestone:
    """Return a row without a result."""
    return Milestone(name=name, predicted=predicted, result="–", verdict=NOT_JUDGED, note=note)
