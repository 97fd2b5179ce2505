"""Several requests at once, results in the order asked, and an orderly end when one fails or the job has to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from rag_hpc.errors import RagHpcError

T = TypeVar("T")
R = TypeVar("R")
POLL_S = 0.1


def in_order(items: Sequence[T], work: Callable[[T], R], at_once: int, check_stop: Callable[[], None]) -> list[R]:
    """Return what `work` gives for each item, in their order; `at_once` of them are worked at, on threads.

    Once `check_stop` raises or an item fails, none is begun any more, and those that were come to their own end first;
    of several failures the one of the earliest item is raised. A stop goes before them: what stops a job may well have
    stopped what its items relied on.
    """
    if at_once == 1:
        return [_alone(check_stop, work, item) for item in items]
    left = list(enumerate(items))[::-1]
    running: dict[Future[R], int] = {}
    results: dict[int, R] = {}
    failed: dict[int, BaseException] = {}
    with ThreadPoolExecutor(at_once, thread_name_prefix="ask") as pool:
        while left or running:
            if -1 not in failed:
                try:
                    check_stop()
                except RagHpcError as error:  # raised again below, when all have ended
                    failed[-1] = error
            while left and len(running) < at_once and not failed:
                index, item = left.pop()
                running[pool.submit(work, item)] = index
            if failed and not running:
                break
            for done in wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED).done:
                index = running.pop(done)
                if (problem := done.exception()) is not None:
                    failed[index] = problem
                else:
                    results[index] = done.result()
    if failed:
        check_stop()
        raise failed[min(failed)]
    return [results[index] for index in range(len(items))]


def _alone(check_stop: Callable[[], None], work: Callable[[T], R], item: T) -> R:
    check_stop()
    try:
        return work(item)
    except RagHpcError:
        check_stop()
        raise


class Draining:
    """A check_stop for requests: it raises `drain_s` after the job was first seen to have to stop."""

    def __init__(
        self,
        stop_requested: Callable[[], bool],
        check_stop: Callable[[], None],
        drain_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """check_stop: what raises."""
        self._stop_requested, self._check_stop, self._clock = stop_requested, check_stop, clock
        self._first: float | None = None
        self.drain_s = drain_s

    def __call__(self) -> None:
        """Raise what check_stop raises, once the time is up."""
        if not self._stop_requested():
            return
        if self._first is None:
            self._first = self._clock()
        if self._clock() - self._first >= self.drain_s:
            self._check_stop()
