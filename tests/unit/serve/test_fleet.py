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
from rag_hpc.errors import ClusterError
from rag_hpc.launchers import attendant
from rag_hpc.launchers import replicas as processes
from rag_hpc.launchers.attendant import Attendant
from rag_hpc.launchers.gatekeeper import Waker
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import (
    REPLICAS,
    Job,
    Load,
    Notice,
    Replicas,
    Roll,
    asked,
    note_job,
    note_start,
    places_of,
    replicas_place,
    wanted,
    wish,
    wished,
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
    given = ["generator=vllm", f"generator.model={model}", f"generator.vllm.python={python}", "workers=2"]
    assert main(["serve", "replicas", f"run={ledger.run_dir}", *given, "serve.replica.canary_s=1"]) == 0
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
        assert main(["serve", "replicas", f"run={ledger.run_dir}", *given]) == 2
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


def test_idle_replicas_of_this_machine_end_and_come_again(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, python = model_like(tmp_path / "model"), fake_vllm(tmp_path)
    generator = ["generator=vllm", f"generator.model={model}", f"generator.vllm.python={python}"]
    assert main(["serve", "replicas", f"run={ledger.run_dir}", *generator, "serve.replica.idle_s=1"]) == 0
    try:
        (place,) = places_of(ledger.run_dir)
        roll, end = Roll(place), time.monotonic() + 40
        while roll.live():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert asked(place).resting == "no request for 1 s"
        capsys.readouterr()
        assert main(["serve", "status", f"run={ledger.run_dir}"]) == 3
        assert "replicas 1: resting, 0 of 1 ready  no request for 1 s" in capsys.readouterr().out
        wish(place)
        Waker(place).tend(0.0)
        while not [one for one in roll.live() if one.state == "ready"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert main(["serve", "drain", f"run={ledger.run_dir}"]) == 0
        while roll.live():
            assert time.monotonic() < end
            time.sleep(0.1)
        wish(place)
        Waker(place).tend(0.0)
        assert wanted(place) == 0  # only who drained it starts it again
        assert main(["serve", "replicas", f"run={ledger.run_dir}"]) == 0 and wanted(place) == 1
        os.kill(place.keeper().pid, signal.SIGKILL)
        while roll.live():  # no replica stays behind that nobody keeps up
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0


def test_what_cannot_be_served_is_told(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["generator=extractive"], "replicas are engines of their own"),
        (["generator=vllm", "generator.model=x", "serve.replica.canary=1"], "serve.replica.canary: did you mean"),
        (
            ["generator=vllm", "generator.model=x", "workers=3", "serve.replica.max_replicas=2"],
            "max_replicas=2 the most",
        ),
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
    """A second later at each look; replicas of these names are ready from then on, and nobody asks them."""

    def __init__(self, place: Place, now: float, ready: dict[str, float], ends: dict[str, float] | None = None) -> None:
        """ends: when their walltimes are over."""
        self.place, self.now, self.ready, self.ends = place, now, ready, ends or {}

    def __call__(self) -> float:
        self.now += 1.0
        for name, since in self.ready.items():
            if self.now >= since:
                told = {"idle_s": self.now - since, "ends_unix": self.ends.get(name, 0.0)}
                write_notice(self.place, Notice(name=name, beat=int(self.now), **told, **READY))
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
    for now, ready, successors in ((10.0, {"0": 1.0}, []), (60.0, {}, []), (61.0, {"0": 1.0}, [(0, 1)])):
        assert quiet == []
        Clock(place, now, ready)()
        found._ask_successor(now)
        assert quiet == successors
        (place.folder / "replica-0.json").unlink(missing_ok=True)


def test_hand_overs_of_jobs_whose_walltimes_end_together_follow_each_other(
    place: Place, quiet: list[tuple[int, int]]
) -> None:
    for _ in range(20):
        note_start(place, 7.0, 45.0)  # with the drain a hand-over takes a minute
    ends = {"0": 5000.0, "1": 5010.0, "2": 4990.0, "3": 5200.0}
    Clock(place, 1.0, dict.fromkeys(ends, 1.0), ends)()
    for slot, first in ((0, 933.0), (1, 873.0), (2, 813.0), (3, 933.0)):
        found = Attendant(place, [str(slot)], 1000.0, in_job=True)
        found._ask_successor(first - 1.0)
        assert (slot, 1) not in quiet
        found._ask_successor(first)
        assert quiet[-1] == (slot, 1)


def test_the_last_that_answers_does_so_as_long_as_its_walltime_lets_it(
    place: Place, quiet: list[tuple[int, int]]
) -> None:
    ends = {"0": 5000.0, "1": 5000.0}
    for name, at in (("0", 985.0), ("1", 990.0)):  # the drain takes 10 s, and 5 s are to spare
        clock = Clock(place, 900.0, {"0": 1.0, "1": 1.0}, ends)
        assert Attendant(place, [name], 1000.0, in_job=True).keep(clock) == 0
        assert at < clock.now <= at + 2


def test_a_fleet_that_nobody_asks_ends_and_a_wish_starts_it_again(
    place: Place, quiet: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {"name": "a site"}
    place.write(REPLICAS, Replicas(num=2, generator={}, settings={"idle_s": 30.0}, site=site))
    clock = Clock(place, 100.0, {"0": 100.0, "1": 105.0})
    assert Attendant(place, ["0"], None, in_job=True).keep(clock) == 0
    assert 135 <= clock.now < 140 and asked(place).resting == "no request for 30 s"
    assert Attendant(place, ["1"], None, in_job=True).keep(clock) == 0  # and a successor that starts late
    assert processes.state_of(place)["state"] == "resting"

    made, refused = list[int](), [True]

    def submit_absent(place: Place, slots: list[int]) -> list[str]:
        if refused.pop():
            raise ClusterError("the site's limit is reached")
        refused.append(False)
        made.extend(slots)
        return [str(slot) for slot in slots]

    monkeypatch.setattr(processes, "absent", lambda place, **how: list(range(wanted(place))))
    monkeypatch.setattr(processes, "submit_absent", submit_absent)
    waker = Waker(place)
    waker.tend(0.0)
    assert asked(place).resting
    wish(place)
    waker.tend(10.0)
    assert made == [] and wished(place)
    refused.append(False)
    waker.tend(11.0)
    assert made == []  # too soon after a failure
    waker.tend(50.0)
    assert made == [0, 1] and not wished(place) and wanted(place) == 2
    for now in (60.0, 70.0, 80.0):  # jobs that end at once are not submitted for ever
        wish(place)
        waker.tend(now)
    assert made == [0, 1] * 2


def test_the_first_that_is_ready_has_as_many_as_the_load_of_all_gateways_needs(
    place: Place, quiet: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_replicas": 4, "target_ongoing_requests": 8.0, "upscale_delay_s": 5.0, "downscale_delay_s": 20.0}
    place.write(REPLICAS, Replicas(num=2, generator={}, settings=settings, site={"name": "a site"}))
    made, cancelled = list[int](), list[str]()
    monkeypatch.setattr(processes, "absent", lambda place, *given, **how: [])
    monkeypatch.setattr(processes, "submit_absent", lambda place, slots, slurm: made.extend(slots) or [])
    monkeypatch.setattr(processes, "_cancel_waiting", lambda slurm, ids: cancelled.extend(ids))
    first, other = (Attendant(place, [name], None, in_job=True) for name in ("0", "1"))
    seen = dict[int, int]()

    def look(seconds: range, **ongoing: int) -> None:
        for now in seconds:
            Clock(place, now, {"0": 0.0, "1": 0.0})()
            for name, num in ongoing.items():
                write_notice(place, Load(name=name, ongoing=num, beat=now))
            for one in (other, first):
                one._scale(float(now))
            seen[now] = wanted(place)

    look(range(10), a=9, b=14)  # 23 of 8
    assert (seen[4], seen[5], made) == (2, 3, [2])
    look(range(10, 20), a=9, b=24)
    assert wanted(place) == 4 and made == [2, 3]  # the most, and 5 were needed
    note_job(place, Job(id="9", slot=3, generation=0))
    look(range(20, 60), a=1, b=0)
    assert (seen[30], wanted(place), made, cancelled[-1]) == (4, 2, [2, 3], "9")


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
            raise ClusterError("the site's limit is reached")
        made.append((slot, generation))
        return "8"

    monkeypatch.setattr(processes, "submit", submit)
    note_job(place, Job(id="7", slot=1, generation=1))
    assert processes.submit_absent(place, [1]) == ["8"] and processes.submit_absent(place, [1]) == []
    with pytest.raises(ClusterError):
        processes.submit_absent(place, [0])
    made.clear()
    assert processes.submit_absent(place, [0]) == ["8"] and made == [(0, 0)]
