"""`rag-hpc serve replicas` on this machine: all come up, a killed one comes again, none is left."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatserver import fake_vllm, model_like

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.launchers import attendant
from rag_hpc.launchers import replicas as processes
from rag_hpc.launchers.attendant import Attendant
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import (
    REPLICAS,
    Job,
    Notice,
    Replicas,
    Roll,
    note_job,
    places_of,
    replicas_place,
    write_notice,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "runs" / "r")
    made.create({})
    made.submit(Request(run="r", number=0, stages=[], settings={}, workers=1, cluster={"root": None}))
    return made


@pytest.fixture
def place(ledger: Ledger) -> Place:
    found = replicas_place(ledger.run_dir, "1")
    found.create()
    found.write(REPLICAS, Replicas(num=5, generator={}, settings={"drain_s": 10.0}))
    return found


def test_replicas_come_up_come_again_and_leave_nothing(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, python = model_like(tmp_path / "model"), fake_vllm(tmp_path)
    asked = ["generator=vllm", f"generator.model={model}", f"generator.vllm.python={python}", "workers=2"]
    assert main(["serve", "replicas", f"run={ledger.run_dir}", *asked, "serve.replica.canary_s=1"]) == 0
    try:
        (place,) = places_of(ledger.run_dir)
        first = Roll(place).live()
        assert [one.name for one in first] == ["0", "1"] and len({one.address for one in first}) == 2
        os.kill(first[0].pid, signal.SIGKILL)
        end = time.monotonic() + 40
        while time.monotonic() < end:
            again = {one.name: one for one in Roll(place).live()}
            if again["0"].pid != first[0].pid and again["0"].state == "ready":
                break
            time.sleep(0.1)
        assert again["0"].pid != first[0].pid and again["1"].pid == first[1].pid
        capsys.readouterr()
        assert main(["serve", "status", f"run={ledger.run_dir}", "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)
        assert (told["state"], told["ready"], told["asked"]) == ("up", 2, 2)
        assert main(["serve", "replicas", f"run={ledger.run_dir}", *asked]) == 2
        assert "are up" in capsys.readouterr().err
        assert main(["serve", "replicas", f"run={ledger.run_dir}"]) == 2
        assert "up, 2 of them" in capsys.readouterr().err
        assert main(["serve", "replicas", f"run={ledger.run_dir}", "workers=3"]) == 0
        more = {one.name: one for one in Roll(place).live()}
        assert set(more) == {"0", "1", "2"} and more["1"].pid == first[1].pid
        assert main(["serve", "replicas", f"run={ledger.run_dir}", "workers=1"]) == 0
        (left,) = Roll(place).live()
        assert (left.name, left.pid) == ("0", again["0"].pid)
        again |= more
    finally:
        assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / ".replicas").exists()
    assert not any(Path(f"/proc/{one.pid}").exists() for one in again.values())
    assert not any(Path(one.address).parent.exists() for one in again.values())


def test_what_cannot_be_served_is_told(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["generator=extractive"], "replicas are engines of their own"),
        (["generator=vllm", "generator.model=x", "serve.replica.canary=1"], "serve.replica.canary: did you mean"),
    ):
        assert main(["serve", "replicas", f"run={ledger.run_dir}", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (ledger.run_dir / ".replicas").exists()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Attendants without children, and what they submit."""
    kept = {number: signal.getsignal(number) for number in (15, 2, 1, 10, 12)}
    submitted: list[tuple[int, int]] = []

    def submit(place: Place, slot: int, generation: int) -> str:
        submitted.append((slot, generation))
        note_job(place, Job(id="7", slot=slot, generation=generation))
        return "7"

    monkeypatch.setattr(attendant, "submit", submit)
    monkeypatch.setattr(attendant, "absent", lambda place, **how: [])
    monkeypatch.setattr(attendant.Rank, "tend", lambda self: None)
    monkeypatch.setattr(attendant, "POLL_S", 0.0)
    yield submitted
    for number, handler in kept.items():
        signal.signal(number, handler)


READY = {"state": "ready", "address": "", "host": "n", "pid": 1}


class Clock:
    """A second later at each look; replicas of these names are ready from then on."""

    def __init__(self, place: Place, now: float, ready: dict[str, float]) -> None:
        self.place, self.now, self.ready = place, now, ready

    def __call__(self) -> float:
        self.now += 1.0
        for name, since in self.ready.items():
            if self.now >= since:
                write_notice(self.place, Notice(name=name, beat=int(self.now), **READY))
        return self.now


def test_a_job_hands_over_before_its_walltime(place: Place, quiet: list[tuple[int, int]]) -> None:
    clock = Clock(place, 800.0, {"3": 1.0, "3-1": 950.0})
    assert Attendant(place, ["3"], 1000.0, in_job=True).keep(clock) == 0
    assert quiet == [(3, 1)] and 950 <= clock.now < 955
    late = Clock(place, 860.0, {"4": 1.0})
    assert Attendant(place, ["4"], 1000.0, in_job=True).keep(late) == 0
    assert quiet == [(3, 1), (4, 1)] and late.now >= 1000 - 15  # the drain


def test_a_successor_is_asked_for_late_enough_and_by_one_that_is_ready(
    place: Place, quiet: list[tuple[int, int]]
) -> None:
    found = Attendant(place, ["0"], 100.0, in_job=True)  # shorter than what a start is guessed to take
    for now, ready, asked in ((10.0, {"0": 1.0}, []), (60.0, {}, []), (61.0, {"0": 1.0}, [(0, 1)])):
        assert quiet == []
        Clock(place, now, ready)()
        found._ask_successor(now)
        assert quiet == asked
        (place.folder / "replica-0.json").unlink(missing_ok=True)


def test_without_a_successor_it_is_put_back_into_the_queue(
    place: Place, quiet: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(place: Place, slot: int, generation: int) -> str:
        raise attendant.ClusterError("the site's limit is reached")

    monkeypatch.setattr(attendant, "submit", refused)
    clock = Clock(place, 800.0, {"0": 1.0})
    assert Attendant(place, ["0"], 1000.0, in_job=True).keep(clock) == 3 and not quiet


def test_a_job_that_is_no_longer_asked_for_drains_and_has_no_successor(
    place: Place, quiet: list[tuple[int, int]]
) -> None:
    clock = Clock(place, 940.0, {"4": 1.0})
    place.write(REPLICAS, Replicas(num=4, generator={}, settings={}))
    assert Attendant(place, ["4"], 1000.0, in_job=True).keep(clock) == 0
    assert not quiet and clock.now < 943


def test_the_first_that_is_ready_submits_a_job_that_was_killed_whole_and_not_for_ever(
    place: Place, quiet: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(attendant, "absent", lambda place, **how: [1])
    monkeypatch.setattr(attendant, "submit_absent", lambda place, slots: made.extend(slots) or [])
    first, other = (Attendant(place, [name], None, in_job=True) for name in ("0", "2"))
    for now in range(0, 200, 31):
        Clock(place, now, {"0": 0.0, "2": 0.0})()
        other._mend(now)
        assert len(made) == min(3, now // 31)
        first._mend(now)
    assert made == [1, 1, 1]


def test_a_slot_is_submitted_once_however_many_want_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []

    def submit(place: Place, slot: int, generation: int, slurm: object) -> str:
        if made == [(1, 2)]:
            raise processes.ClusterError("the site's limit is reached")
        made.append((slot, generation))
        return "8"

    monkeypatch.setattr(processes, "submit", submit)
    note_job(place, Job(id="7", slot=1, generation=1))
    assert processes.submit_absent(place, [1]) == ["8"] and processes.submit_absent(place, [1]) == []
    with pytest.raises(processes.ClusterError):
        processes.submit_absent(place, [0])
    made.clear()
    assert processes.submit_absent(place, [0]) == ["8"] and made == [(0, 0)]
