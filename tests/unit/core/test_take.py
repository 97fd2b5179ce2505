from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_hpc.core import commit, take
from rag_hpc.core.failures import record_failure
from rag_hpc.core.plan import Plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.take import POLL_S, Taker
from rag_hpc.core.unit import Unit
from rag_hpc.errors import Interrupted


class World:
    """Units on disk, and a clock that moves when somebody sleeps; `later` says what others do meanwhile."""

    def __init__(self, tmp_path: Path, num_units: int, max_attempts: int = 2) -> None:
        self.now, self.slept = 1000.0, 0
        self.later: dict[int, Callable[[], None]] = {}  # number of the sleep -> what others do during it
        self.stage_dir = tmp_path
        self.units_dir = tmp_path / "units"
        self.units_dir.mkdir()
        self.plan = Plan(
            run="run",
            stage="toy",
            version=1,
            fingerprint="ab" * 32,
            config={},
            inputs={},
            submission=1,
            units=[Unit(i, {}) for i in range(num_units)],
            workers=2,
            policy=Policy(max_attempts=max_attempts, backup_after_s=10.0),
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1
        self.later.pop(self.slept, lambda: None)()
        assert self.slept < 1000, "waits for ever"

    def commit(self, index: int) -> None:
        (self.units_dir / f"unit-{index:05d}").mkdir()
        for name in [n for n, i in commit.drafts(self.units_dir).items() if i == index]:
            (self.units_dir / name).rmdir()

    def begin(self, index: int, worker: int) -> None:
        commit.open_draft(self.units_dir, commit.draft_name(Unit(index, {}), 1, worker, 0))

    def taker(self, index: int, world_size: int) -> Taker:
        return Taker(self.plan, self.stage_dir, index, world_size, clock=lambda: self.now, sleep=self.sleep)

    def take_all(self, index: int, world_size: int) -> list[int]:
        taken = []
        for unit in self.taker(index, world_size):
            taken.append(unit.index)
            self.commit(unit.index)
        return taken


def test_own_stripe_comes_first_then_others_from_the_far_end(tmp_path: Path) -> None:
    assert World(tmp_path, 7).take_all(1, 3) == [1, 4, 6, 5, 3, 2, 0]


def test_two_workers_in_turn_meet_in_the_middle_and_share_all(tmp_path: Path) -> None:
    world = World(tmp_path, 9)
    takers = [iter(world.taker(0, 2)), iter(world.taker(1, 2))]
    taken: list[int] = []
    while takers:
        for taker in list(takers):
            unit = next(taker, None)
            if unit is None:
                takers.remove(taker)
            else:
                taken.append(unit.index)
                world.commit(unit.index)
    assert sorted(taken) == list(range(9))


def test_begun_units_are_left_to_their_owner(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.begin(0, worker=1)
    world.later = {3: lambda: world.commit(0)}
    assert world.take_all(0, 1) == [1, 2]
    assert world.slept == 3


def test_straggler_is_backed_up_after_patience_on_own_clock(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    world.begin(0, worker=1)
    assert world.take_all(0, 1) == [1, 0]
    assert world.slept * POLL_S == pytest.approx(10.0, abs=POLL_S)


def test_patience_grows_with_the_usual_duration(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.begin(0, worker=1)
    for unit in world.taker(0, 1):
        world.commit(unit.index)
        world.now += 100.0  # units take that long, so 10 s of waiting say nothing
    assert world.slept * POLL_S == pytest.approx(300.0, abs=POLL_S)


def test_two_idle_workers_do_not_back_up_the_same_straggler_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    world.begin(0, worker=1)
    world.begin(1, worker=2)
    helper = iter(world.taker(3, 4))
    first = next(helper)
    world.begin(first.index, worker=3)
    second = next(iter(world.taker(4, 4)))
    assert {first.index, second.index} == {0, 1}


def test_straggler_that_was_just_backed_up_gets_new_patience(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    world.begin(0, worker=1)
    world.later = {15: lambda: world.begin(0, worker=2)}
    assert world.take_all(0, 1) == [0]
    assert world.slept == pytest.approx(15 + 10.0 / POLL_S, abs=1)


def test_quarantined_units_are_skipped(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    for _ in range(2):
        record_failure(world.stage_dir, Unit(2, {}), ValueError(), submission=1)
    record_failure(world.stage_dir, Unit(1, {}), ValueError(), submission=1)
    assert world.take_all(0, 1) == [0, 1, 3]


def test_failing_unit_is_offered_again_until_its_attempts_are_used(tmp_path: Path) -> None:
    world, taken = World(tmp_path, 3, max_attempts=3), []
    for unit in world.taker(0, 1):
        taken.append(unit.index)
        if unit.index == 1:
            record_failure(world.stage_dir, unit, ValueError(), submission=1)
        else:
            world.commit(unit.index)
    assert taken == [0, 1, 1, 1, 2]


def test_unit_that_ends_while_we_look_is_not_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, 1)
    world.begin(0, worker=1)
    real = commit.drafts

    def drafts(units_dir: Path) -> dict[str, int]:
        found = real(units_dir)
        if found:
            world.commit(0)
        return found

    monkeypatch.setattr("rag_hpc.core.take.drafts", drafts)
    assert list(world.taker(0, 1)) == []


def test_worker_beyond_the_last_stripe_still_helps(tmp_path: Path) -> None:
    assert World(tmp_path, 3).take_all(7, 8) == [2, 1, 0]


def test_units_of_an_exclusive_stage_are_claimed_once_and_never_backed_up(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    carries = [commit.carry_dir(tmp_path, unit) for unit in world.plan.units]
    assert take.claim(carries[1], 1, worker=1) and not take.claim(carries[1], 1, worker=0)
    assert take.claim(carries[1], 1, worker=1)  # a worker that was requeued finds its own

    def taker(index: int) -> Taker:
        return Taker(world.plan, tmp_path, index, 2, exclusive=True, clock=lambda: world.now, sleep=world.sleep)

    taken = []
    for unit in taker(0):
        taken.append(unit.index)
        world.commit(unit.index)
    assert taken == [0, 2] and world.slept == 0
    assert [unit.index for unit, _ in zip(taker(1), range(1), strict=False)] == [1]
    take.release(carries[1], 1)
    assert next(iter(taker(0))).index == 1
    assert take.claim(carries[1], 2, worker=0)  # of a later submission
    with pytest.raises(Interrupted, match="later submission"):
        take.claim(carries[1], 1, worker=0)


def test_the_draft_of_an_earlier_submission_does_not_keep_an_exclusive_unit_from_a_later_one(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    taker = Taker(world.plan, tmp_path, 0, 1, exclusive=True)
    commit.open_draft(world.units_dir, commit.draft_name(world.plan.units[0], 1, 0, 0))
    take.claim(commit.carry_dir(tmp_path, world.plan.units[0]), 1, worker=1)
    assert world.plan.submission == 1 and list(taker) == []
    world.plan = dataclasses.replace(world.plan, submission=2)
    assert next(iter(Taker(world.plan, tmp_path, 0, 1, exclusive=True))).index == 0


def test_a_claim_on_a_unit_that_is_committed_meanwhile_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry, publish = tmp_path / "unit-00000", take.publish_file

    def publish_late(path: Path, data: bytes) -> bool:
        carry.rmdir()
        return publish(path, data)

    monkeypatch.setattr(take, "publish_file", publish_late)
    assert not take.claim(carry, 1, worker=0)


def test_sweep_drops_what_committed_units_left_for_later_attempts(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    for unit in world.plan.units:
        commit.carry_dir(tmp_path, unit).mkdir(parents=True)
    world.commit(0)
    commit.sweep(world.units_dir, submission=1)
    assert [path.name for path in (tmp_path / commit.CARRY).iterdir()] == ["unit-00001"]
