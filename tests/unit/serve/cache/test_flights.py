"""Equal requests that come at once are computed once, and a failure is nobody else's."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_hpc.errors import RagHpcError
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.flights import Flights

KEY = Key(kind=Kind.answer, scope=Scope(tenant="t", generation="g"), text="q")
NUM = 8


def _until_joined(flights: Flights[int], num: int) -> None:
    until = threading.Event()
    while flights.joined < num:
        until.wait(0.001)


def test_threads_that_ask_at_once_compute_once() -> None:
    flights, calls = Flights[int](), []

    def compute() -> int:
        calls.append(1)
        _until_joined(flights, NUM - 1)
        return 7

    with ThreadPoolExecutor(NUM) as pool:
        assert list(pool.map(lambda _: flights.run("key", compute), range(NUM))) == [7] * NUM
    assert len(calls) == 1
    assert flights.run("key", lambda: 8) == 8


def test_a_failed_computation_is_tried_anew_by_those_who_waited() -> None:
    flights, calls, lock = Flights[int](), [], threading.Lock()

    def compute() -> int:
        with lock:
            calls.append(1)
            first = len(calls) == 1
        if first:
            _until_joined(flights, NUM - 1)
            raise RagHpcError("the first fails")
        return 7

    def ask(_: int) -> int | str:
        try:
            return flights.run("key", compute)
        except RagHpcError as error:
            return str(error)

    with ThreadPoolExecutor(NUM) as pool:
        told = sorted(map(str, pool.map(ask, range(NUM))))
    assert told == ["7"] * (NUM - 1) + ["the first fails"]


def test_who_waits_too_long_is_told_so_and_the_other_goes_on() -> None:
    flights, end = Flights[int](), threading.Event()

    def compute() -> int:
        end.wait(5)
        return 7

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.run, "key", compute)
        with pytest.raises(TimeoutError):
            _late(flights)
        end.set()
        assert first.result() == 7


def _late(flights: Flights[int]) -> int:
    while True:
        found = flights.run("key", lambda: -1, wait_s=0.01)
        if found != -1:  # -1: asked before the other had begun
            return found


def test_tasks_share_a_computation_that_outlives_who_began_it() -> None:
    async def play() -> tuple[list[object], int]:
        flights, calls, go = Flights[int](), [], asyncio.Event()

        async def compute() -> int:
            calls.append(1)
            await go.wait()
            return 7

        tasks = [asyncio.create_task(flights.arun("key", compute)) for _ in range(4)]
        while flights.joined < 3:
            await asyncio.sleep(0)
        tasks[0].cancel()  # the client that came first has gone
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True), len(calls)

    told, calls = asyncio.run(play())
    assert isinstance(told[0], asyncio.CancelledError) and told[1:] == [7, 7, 7] and calls == 1


def test_tasks_that_waited_for_a_failure_try_once_more_and_no_more() -> None:
    async def play() -> tuple[list[object], int]:
        flights, calls = Flights[int](), []

        async def compute() -> int:
            calls.append(1)
            await asyncio.sleep(0)
            raise RagHpcError("down")

        tasks = [flights.arun("key", compute) for _ in range(4)]
        return await asyncio.gather(*tasks, return_exceptions=True), len(calls)

    told, calls = asyncio.run(play())
    assert [str(error) for error in told] == ["down"] * 4 and calls == 2


def test_a_value_is_kept_unless_it_is_not_for_others_or_failed() -> None:
    cache = Cache(CacheConfig(), b"s")
    with pytest.raises(RagHpcError):
        cache.once(KEY, _fails)
    assert cache.once(KEY, lambda: Got({"coverage": "1/2"}, "computed", keep=False)).value == {"coverage": "1/2"}
    assert cache.get(KEY) is None
    assert not cache.once(KEY, lambda: Got(1, "computed")).hit
    assert cache.once(KEY, _fails) == Got(1, "memory")
    assert cache.stats()["answer_memory"] == 1 and cache.stats()["memory_entries"] == 1


def test_a_task_finds_what_a_thread_has_kept() -> None:
    async def make() -> Got:
        return Got(2, "computed")

    cache = Cache(CacheConfig(), b"s")
    assert asyncio.run(cache.once_async(KEY, make)).value == 2
    assert cache.once(KEY, _fails) == Got(2, "memory")
    assert asyncio.run(cache.once_async(KEY, make)) == Got(2, "memory")


def _fails() -> Got:
    raise RagHpcError("down")
