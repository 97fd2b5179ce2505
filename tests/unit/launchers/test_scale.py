"""How many replicas a fleet has by its load, on a clock that is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rag_hpc.launchers.scale import Scaler
from rag_hpc.serve.replicas import STALE_S, ReplicaConfig


def changes(load: Callable[[int], float | None], seconds: int, least: int = 1) -> list[tuple[int, int]]:
    """Return when there are how many other replicas, by the load of each second; None: no gateway tells it."""
    config = ReplicaConfig(max_replicas=4, target_ongoing_requests=10.0, upscale_delay_s=30.0, downscale_delay_s=300.0)
    scaler, num, found = Scaler(config), least, list[tuple[int, int]]()
    for now in range(seconds):
        if (ongoing := load(now)) is not None and (wanted := scaler.wanted(now, ongoing, num, least)) != num:
            num = wanted
            found.append((now, num))
    return found


@pytest.mark.parametrize(("ongoing", "num"), [(10.0, None), (10.1, 2), (35.0, 4), (900.0, 4)])
def test_as_many_as_a_lasting_load_needs_come_after_the_delay_at_once(ongoing: float, num: int | None) -> None:
    assert changes(lambda now: ongoing, 1000) == ([(30, num)] if num else [])


def test_a_burst_counts_by_its_mean_over_the_delay() -> None:
    assert changes(lambda now: 80.0 * (40 <= now < 43), 200) == []  # 8 on average
    assert changes(lambda now: 80.0 * (40 <= now < 46), 200) == [(43, 2)]


def test_they_go_one_by_one_as_fewer_would_have_done_for_the_longer_delay() -> None:
    found = [(30, 4), (403, 3), (411, 2), (420, 1)]  # 300 s after means over 30 s that fell under 30, 20 and 10
    assert changes(lambda now: 35.0 * (now < 100), 1000) == found
    assert changes(lambda now: 35.0 * (now < 100), 1000, least=2) == found[:3]


def test_a_load_about_a_bound_does_not_make_them_come_and_go() -> None:
    assert changes(lambda now: 19.0 if now % 100 < 50 else 5.0, 3000) == [(30, 2)]


def test_what_no_gateway_tells_is_not_taken_for_none() -> None:
    silent = range(100, 900)
    assert changes(lambda now: None if now in silent else 35.0, 1500) == [(30, 4)]
    later = changes(lambda now: None if now in silent else 35.0 * (now < 100), 1300)
    assert later == [(30, 4), (1230, 1)]  # its silence is no time without load
    short = range(100, 100 + int(STALE_S))
    assert changes(lambda now: None if now in short else 35.0, 400) == [(30, 4)]
