"""The door of a group of one rank, with a searcher that does as it is told: queue, batches, deadlines, hedging."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.algo.types import Array
from rag_hpc.errors import CorruptOutput, InputError
from rag_hpc.search.searcher import Found
from rag_hpc.serve.client import Client, Near, Reply, Unanswered, search_groups
from rag_hpc.serve.door import Door
from rag_hpc.serve.members import Members
from rag_hpc.serve.places import DOOR, GROUP, Group, Place, connect, groups_of, listener
from rag_hpc.serve.places import Door as Address
from rag_hpc.serve.rounds import RootComm
from rag_hpc.serve.wire import greet, send

ONE = np.ones((1, 3), dtype=np.float32)


class Scripted:
    """Finds for each query its vector's first number; waits for a sign when there is one to wait for."""

    def __init__(self) -> None:
        self.go, self.begun, self.seen = threading.Event(), threading.Event(), list[list[str]]()
        self.go.set()

    def search(self, texts: Sequence[str], vectors_QD: Array, only: str = "") -> Found:
        self.seen.append(list(texts))
        self.begun.set()
        assert self.go.wait(20)
        if "fail" in texts:
            raise InputError("as it was told")
        return Found({"bm25": (vectors_QD[:, :1], np.arange(len(texts)).reshape(-1, 1))}, {"bm25": 0.5})


@contextlib.contextmanager
def door_of(
    run_dir: Path, name: str, searcher: Scripted, ranks: int = 1, **settings: Any
) -> Iterator[tuple[Place, threading.Event]]:
    """Yield where a door answers, and what stops it."""
    place, stop = Place(run_dir, name), threading.Event()
    place.create()
    asked = {"deadline_ms": 10_000, **settings}
    group = Group(run="r", run_dir=str(run_dir), name=name, ranks=ranks, submission=1, fingerprint="f", settings=asked)
    place.write(GROUP, group)
    members = Members(ranks, stop.is_set)
    door = Door(group, members, place.key(), 2, 3, stop.is_set)
    sock, address = listener("unix", place.folder, None)
    with contextlib.closing(sock):
        door.listen(sock)
        place.write(DOOR, Address(address=address, host=os.uname().nodename, pid=os.getpid()))
        thread = threading.Thread(target=door.run, args=(searcher, RootComm(members)))
        thread.start()
        try:
            yield place, stop
        finally:
            searcher.go.set()
            stop.set()
            thread.join()


@dataclasses.dataclass
class Asked:
    """A search in a thread of its own."""

    thread: threading.Thread
    outcome: list[Reply | Unanswered] = dataclasses.field(default_factory=list)

    def result(self) -> Reply | Unanswered:
        self.thread.join()
        return self.outcome[0]


def ask(place: Place, text: str, number: float = 1.0, deadline_ms: float | None = None) -> Asked:
    outcome: list[Reply | Unanswered] = []

    def work() -> None:
        with contextlib.closing(Client(place)) as client:
            try:
                outcome.append(client.search([text], number * ONE, deadline_ms))
            except Unanswered as error:
                outcome.append(error)

    asked = Asked(threading.Thread(target=work), outcome)
    asked.thread.start()
    return asked


def waiting(place: Place, number: int) -> None:
    """Return when so many requests wait."""
    with contextlib.closing(Client(place)) as client:
        wait_for(lambda: client.status()["waiting"] == number)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def in_flight(place: Place, searcher: Scripted) -> Asked:
    """Return a search that has begun and goes on until `searcher.go` is set."""
    searcher.go.clear()
    first = ask(place, "first")
    assert searcher.begun.wait(10)
    return first


def number_of(outcome: Reply | Unanswered) -> float:
    assert isinstance(outcome, Reply)
    return float(outcome.found.hits["bm25"][0][0, 0])


def kind_of(outcome: Reply | Unanswered) -> str:
    assert isinstance(outcome, Unanswered)
    return outcome.kind


def test_what_comes_meanwhile_is_searched_together_and_each_gets_its_own(tmp_path: Path) -> None:
    with door_of(tmp_path, "1", searcher := Scripted(), max_batch=3) as (place, _):
        first = in_flight(place, searcher)
        others = []
        for n in range(4):
            others.append(ask(place, f"q{n}", 10 + n))
            waiting(place, n + 1)
        searcher.go.set()
        assert number_of(first.result()) == 1 and [number_of(one.result()) for one in others] == [10, 11, 12, 13]
        assert searcher.seen == [["first"], ["q0", "q1", "q2"], ["q3"]]


def test_a_hurried_query_is_not_put_with_patient_ones(tmp_path: Path) -> None:
    with door_of(tmp_path, "1", searcher := Scripted()) as (place, _):
        first = in_flight(place, searcher)
        patient = ask(place, "patient", deadline_ms=60_000)
        waiting(place, 1)
        hurried = ask(place, "hurried", deadline_ms=5000)
        waiting(place, 2)
        searcher.go.set()
        assert all(isinstance(one.result(), Reply) for one in (first, patient, hurried))
        assert searcher.seen == [["first"], ["patient"], ["hurried"]]


def test_a_full_queue_says_so_and_a_passed_deadline_too(tmp_path: Path) -> None:
    with door_of(tmp_path, "1", searcher := Scripted(), max_queue=1) as (place, _):
        first = in_flight(place, searcher)
        second = ask(place, "second", deadline_ms=400)
        waiting(place, 1)
        third = ask(place, "third")
        assert kind_of(third.result()) == "overloaded"
        begun = time.monotonic()
        assert kind_of(second.result()) == "late" and time.monotonic() - begun < 5
        searcher.go.set()
        assert number_of(first.result()) == 1
        with contextlib.closing(Client(place)) as client:
            assert client.search(["fourth"], 4 * ONE).whole
            found = client.status()
        assert (found["requests"], found["late"], found["overloaded"]) == (2, 1, 1)
        assert ["second"] not in searcher.seen  # nobody waits for it any more


def test_a_search_that_fails_is_told_and_the_next_is_answered(tmp_path: Path) -> None:
    with door_of(tmp_path, "1", Scripted()) as (place, _), contextlib.closing(Client(place)) as client:
        with pytest.raises(Unanswered, match="InputError: as it was told"):
            client.search(["fail"], ONE)
        assert client.search(["next"], ONE).coverage == "2/2"


def test_what_waits_is_answered_before_the_door_closes(tmp_path: Path) -> None:
    with door_of(tmp_path, "1", searcher := Scripted()) as (place, stop):
        first = in_flight(place, searcher)
        second = ask(place, "second", 2)
        waiting(place, 1)
        stop.set()
        assert kind_of(ask(place, "third").result()) == "draining"
        searcher.go.set()
        assert (number_of(first.result()), number_of(second.result())) == (1, 2)


def test_a_second_group_answers_when_the_first_is_late_or_down(tmp_path: Path) -> None:
    slow, quick = Scripted(), Scripted()
    slow.go.clear()
    with door_of(tmp_path, "a", slow, hedge_after_ms=50), door_of(tmp_path, "b", quick):
        places = groups_of(tmp_path)
        begun = time.monotonic()
        reply = search_groups(places, ["q"], 5 * ONE)
        assert reply.group == "b" and 0.04 < time.monotonic() - begun < 5
        assert slow.seen == [["q"]] and quick.seen == [["q"]]
        (places[0].folder / DOOR).unlink()
        assert search_groups(places, ["q"], 5 * ONE).group == "b"
        slow.go.set()
    with pytest.raises(Unanswered) as caught:
        search_groups(places, ["q"], 5 * ONE, 500)
    assert caught.value.kind == "down"


def test_a_second_group_is_asked_at_once_when_the_first_is_not_whole(tmp_path: Path) -> None:
    lame, sound = Scripted(), Scripted()
    with door_of(tmp_path, "a", lame, ranks=2, hedge_after_ms=60_000) as (place, _):
        with connect(place.door(), 5) as sock:
            greet(sock, place.key(), "1")
            send(sock, {"ready": True, "host": "here", "pid": 1})
            with contextlib.closing(Client(place)) as client:
                wait_for(lambda: client.status()["state"] == "up")
        with contextlib.closing(Client(place)) as client:
            wait_for(lambda: client.status()["state"] == "partial")  # the rank is gone
        assert search_groups([place], ["q"], ONE).coverage == "1/2"
        with door_of(tmp_path, "b", sound):
            reply = search_groups(groups_of(tmp_path), ["q"], ONE)
        assert (reply.group, reply.coverage) == ("b", "2/2")


@pytest.mark.parametrize("up", [True, False])
def test_a_first_group_that_answers_is_the_only_one_asked(tmp_path: Path, up: bool) -> None:
    first, second, said = Scripted(), Scripted(), list[str]()

    def own() -> Scripted:
        return second

    with door_of(tmp_path, "a", first), door_of(tmp_path, "b", second):
        near = Near(groups_of(tmp_path) if up else [], own, 7, said.append)
        assert near.search(["q"], ONE).hits["bm25"][0][0, 0] == 1
        assert (first.seen, second.seen) == (([["q"]], []) if up else ([], [["q"]]))
        assert near.coverage == ("2/2" if up else "7/7") and said == []


def test_when_no_group_answers_this_process_searches(tmp_path: Path) -> None:
    said: list[str] = []
    with door_of(tmp_path, "a", Scripted()):
        places = groups_of(tmp_path)
    own: Callable[[], Any] = Scripted
    for _ in range(2):
        near = Near(places, own, 7, said.append)
        for _ in range(2):
            assert near.search(["q"], ONE).seconds == {"bm25": 0.5}
        assert near.coverage == "7/7"
        shutil.rmtree(places[0].folder)  # ended since it was found
        places[0].folder.mkdir()
    assert len(said) == 2 and all(line.endswith("; searching in this process") for line in said)


def test_a_description_of_another_version_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path, "1")
    place.create()
    group = Group(
        run="r", run_dir=str(tmp_path), name="1", ranks=1, submission=1, fingerprint="f", settings={"future": 1}
    )
    place.write(GROUP, group)
    with pytest.raises(CorruptOutput, match=r"group\.json: damaged \(.*future.*serve down, then serve up"):
        place.group()


def test_a_copy_of_a_run_does_not_have_its_group(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with door_of(tmp_path / "run", "1", searcher := Scripted()):
        shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=lambda *given: ["door"])
        (place,) = groups_of(tmp_path / "copy")
        with pytest.raises(InputError, match=r"a copy of .*/run's group; remove it"):
            place.group()
        near = Near([place], lambda: searcher, 7, (said := list[str]()).append)
        near.search(["q"], ONE)
        assert near.coverage == "7/7" and "a copy of" in said[0]
