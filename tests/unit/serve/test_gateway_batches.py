"""Queries of concurrent requests go to a group together, each with its own deadline and filter."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.algo.types import Array
from rag_hpc.search.searcher import Found
from rag_hpc.serve.client import Reply, Unanswered
from rag_hpc.serve.gateway import batches
from rag_hpc.serve.gateway.batches import Batches
from rag_hpc.serve.places import Place


class Group:
    """Finds for each query its vector's first number; waits while it is told to."""

    def __init__(self, most: int = 32) -> None:
        self.go, self.calls, self.most = threading.Event(), list[tuple[list[str], str]](), most
        self.go.set()
        self.down = 0  # times
        self.places = [Place(Path("nowhere"), "1")]

    def search(self, places: Sequence[Place], texts: Sequence[str], vectors_QD: Array, ms: float, only: str) -> Reply:
        self.calls.append((list(texts), only))
        assert self.go.wait(20)
        if self.down:
            self.down -= 1
            raise Unanswered("rank 0 is gone", "down")
        if "fail" in texts:
            raise Unanswered("as it was told", "overloaded")
        hits = {"bm25": (vectors_QD[:, :1], np.arange(len(texts)).reshape(-1, 1))}
        return Reply(Found(hits, {}), 3, 4, "1")

    def run(self, *asked: tuple[str, str], left_s: float = 10.0) -> list[Any]:
        """Return what comes back for queries that are asked at once, each a text and a filter."""

        async def all_of_them() -> list[Any]:
            made = Batches(lambda: self.places, self.search, most=lambda: self.most, wait_s=0.02, limit_s=30)
            until = time.monotonic() + left_s
            queries: list[Awaitable[Reply]] = [
                made.search(text, np.full((1, 3), float(n), dtype=np.float16), only, until)
                for n, (text, only) in enumerate(asked)
            ]
            found = await asyncio.gather(*queries, return_exceptions=True)
            self.go.set()
            await made.close()
            return found

        return asyncio.run(all_of_them())


def scores(found: Sequence[Reply]) -> list[float]:
    return [float(one.found.hits["bm25"][0][0, 0]) for one in found]


def test_queries_that_come_together_are_one_search_and_each_gets_its_own_hits() -> None:
    group = Group(most=4)
    found = group.run(*[(str(n), "") for n in range(10)])
    assert scores(found) == list(range(10)) and sorted(len(texts) for texts, _ in group.calls) == [2, 4, 4]
    assert {one.coverage for one in found} == {"3/4"}


def test_queries_with_another_filter_are_searched_apart() -> None:
    group = Group()
    found = group.run(("a", "x"), ("b", "y"), ("c", "x"))
    assert scores(found) == [0, 1, 2] and sorted(group.calls) == [(["a", "c"], "x"), (["b"], "y")]


def test_a_group_that_is_late_keeps_nobody_beyond_the_deadline() -> None:
    group = Group()
    group.go.clear()
    begun = time.monotonic()
    (late,) = group.run(("a", ""), left_s=0.2)
    assert isinstance(late, Unanswered) and late.kind == "late" and time.monotonic() - begun < 5


@pytest.mark.parametrize(("places", "kind"), [(True, "overloaded"), (False, "down")])
def test_why_nothing_was_found_is_told_to_all(places: bool, kind: str) -> None:
    group = Group()
    group.places = group.places if places else []
    found = group.run(("fail", ""), ("b", ""))
    assert [one.kind for one in found] == [kind, kind]


def test_a_group_that_comes_again_is_waited_for_and_one_that_stays_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    group.down = 3
    assert scores(group.run(("a", ""), ("b", ""))) == [0, 1] and len(group.calls) == 4
    monkeypatch.setattr(batches, "BACK_S", 0.5)
    group.down, begun = 1000, time.monotonic()
    assert [one.kind for one in group.run(("a", ""))] == ["down"] and 0.5 <= time.monotonic() - begun < 5
    begun = time.monotonic()
    assert [one.kind for one in group.run(("a", ""), left_s=0.4)] == ["down"] and time.monotonic() - begun < 2
