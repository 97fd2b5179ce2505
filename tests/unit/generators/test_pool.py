"""Requests at a time: in order, never more than asked for, and an orderly end."""

from __future__ import annotations

import threading
import time

import pytest

from rag_hpc.errors import InputError, Interrupted
from rag_hpc.generators.pool import Draining, in_order


def never() -> None:
    """Never stop."""


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_results_are_in_order_and_no_more_run_at_a_time_than_asked_for(at_once: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (5 - number % 5))  # later ones are quicker
        with lock:
            running -= 1
        return number * number

    assert in_order(range(20), work, at_once, never) == [n * n for n in range(20)]
    assert most == at_once
    assert in_order([], work, at_once, never) == []


def test_after_a_failure_none_is_begun_and_the_earliest_is_told() -> None:
    begun: list[int] = []
    door = threading.Barrier(3)

    def work(number: int) -> int:
        begun.append(number)
        door.wait(5)
        time.sleep(0.1 * (3 - number))  # the later ends first
        if number:
            raise InputError(f"question {number}")
        return number

    with pytest.raises(InputError, match="question 1"):
        in_order(range(50), work, 3, never)
    assert sorted(begun) == [0, 1, 2]


def test_a_stop_lets_those_end_that_were_begun() -> None:
    ended: list[int] = []
    stopping = threading.Event()

    def check_stop() -> None:
        if stopping.is_set():
            raise Interrupted("stopped")

    def work(number: int) -> None:
        stopping.set()
        time.sleep(0.2)
        ended.append(number)

    with pytest.raises(Interrupted):
        in_order(range(50), work, 4, check_stop)
    assert sorted(ended) == [0, 1, 2, 3]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stop_goes_before_the_failures_that_come_of_it(at_once: int) -> None:
    stopping = threading.Event()

    def check_stop() -> None:
        if stopping.is_set():
            raise Interrupted("stopped")

    def work(number: int) -> None:
        stopping.set()  # the scheduler tells the whole job to end, the server too
        raise InputError("the server is gone")

    with pytest.raises(Interrupted):
        in_order(range(9), work, at_once, check_stop)


def test_requests_may_go_on_for_a_while_after_the_stop() -> None:
    asked, now = False, 100.0

    def stop() -> None:
        raise Interrupted("stopped")

    draining = Draining(lambda: asked, stop, 10.0, lambda: now)
    draining()
    now, asked = 200.0, True
    draining()
    now = 209.0
    draining()
    now = 210.0
    with pytest.raises(Interrupted):
        draining()
