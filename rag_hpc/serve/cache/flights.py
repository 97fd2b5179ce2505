"""One computation for equal requests that come while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from rag_hpc.errors import RagHpcError

T = TypeVar("T")


class Flights(Generic[T]):
    """Computations under way, by key. A failed one is forgotten: who waited for it tries once by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, Future[T]] = {}
        self.joined = 0  # requests that waited for another's

    def run(self, key: Hashable, compute: Callable[[], T], wait_s: float | None = None) -> T:
        """Return what `compute` returns, called in one of the threads that ask for the same key at a time.

        Raises TimeoutError where another's takes longer than wait_s.
        """
        for last in (False, True):
            future, first = self._join(key)
            if first:
                try:
                    value = compute()
                except BaseException as error:
                    self._fail(key, future, error)
                    raise
                self._land(key, future, value)
                return value
            try:
                return future.result(wait_s)
            except BaseException:  # of the other's: its deadline, or its client gone
                if last or not future.done():
                    raise
        raise AssertionError("a last try returns or raises")

    async def arun(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Return what `compute` returns, as a task of its own: who began it may be cancelled, the others are not."""
        for last in (False, True):
            future, first = self._join(key)
            if first:
                task = asyncio.ensure_future(compute())
                task.add_done_callback(partial(self._over, key, future))
            try:
                return await asyncio.shield(asyncio.wrap_future(future))
            except BaseException:
                if first or last or not future.done():  # not done: it is this request that was cancelled
                    raise
        raise AssertionError("a last try returns or raises")

    def _join(self, key: Hashable) -> tuple[Future[T], bool]:
        with self._lock:
            future = self._open.get(key)
            if future is not None:
                self.joined += 1
                return future, False
            self._open[key] = future = Future()
            return future, True

    def _land(self, key: Hashable, future: Future[T], value: T) -> None:
        with self._lock:
            self._open.pop(key, None)
        future.set_result(value)

    def _fail(self, key: Hashable, future: Future[T], error: BaseException) -> None:
        with self._lock:
            self._open.pop(key, None)
        future.set_exception(error)

    def _over(self, key: Hashable, future: Future[T], done: asyncio.Future[T]) -> None:
        if done.cancelled():
            self._fail(key, future, RagHpcError("the computation that was waited for was cancelled"))
        elif error := done.exception():
            self._fail(key, future, error)
        else:
            self._land(key, future, done.result())
