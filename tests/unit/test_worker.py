from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import toystages

from rag_hpc import worker
from rag_hpc.core import commit, take
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.failures import failures
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import Plan, plan_path
from rag_hpc.errors import DiskError, RagHpcError
from rag_hpc.launchers.advance import advance

ENTRY = str(Path(toystages.__file__).with_name("toyworker.py"))


@pytest.fixture(autouse=True)
def _restored_process() -> Iterator[None]:
    """A worker's main owns its process: put back what it changed in ours."""
    handlers = {number: signal.getsignal(number) for number in worker.SIGNALS}
    root, mask = logging.getLogger(), os.umask(0o077)
    before = list(root.handlers), root.level
    yield
    os.umask(mask)
    root.handlers[:], root.level = before
    for number, handler in handlers.items():
        signal.signal(number, handler)


def open_plan(ledger: Ledger, **settings: object) -> Plan:
    stages = settings.pop("stages", ("toy.source",))
    plan = advance(ledger.submit(toystages.toy_request("run", stages, **settings))).open_plan  # type: ignore
    assert plan is not None
    return plan


def start(ledger: Ledger, plan: Plan, index: int = 0, **env: str) -> subprocess.Popen[str]:
    path = plan_path(ledger.run_dir, plan.submission, plan.stage)
    return subprocess.Popen(
        [sys.executable, ENTRY, str(path), str(index)], env={**os.environ, **env}, stderr=subprocess.PIPE, text=True
    )


def main(ledger: Ledger, plan: Plan, index: str = "0") -> int:
    return worker.main([str(plan_path(ledger.run_dir, plan.submission, plan.stage)), index])


def units_of(ledger: Ledger, plan: Plan) -> Path:
    return ledger.run_dir / plan.folder / commit.UNITS


def make_trouble(tmp_path: Path, **what: str) -> str:
    folder = tmp_path / "trouble"
    folder.mkdir(exist_ok=True)
    for name, text in what.items():
        (folder / name.replace("_", "-")).write_text(text)
    return str(folder)


def wait_for_draft(units_dir: Path, index: int) -> None:
    end = time.monotonic() + 60
    while index not in commit.drafts(units_dir).values():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_worker_that_finds_all_done_exits_0(ledger: Ledger) -> None:
    plan = open_plan(ledger)
    assert main(ledger, plan) == 0
    assert commit.committed(units_of(ledger, plan)) == set(range(5))
    assert main(ledger, plan) == 0
    assert commit.drafts(units_of(ledger, plan)) == {}


def test_files_are_the_owners_alone(ledger: Ledger) -> None:
    plan = open_plan(ledger)
    main(ledger, plan)
    for path in units_of(ledger, plan).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_unit_that_failed_makes_exit_1_even_if_a_second_attempt_went_well(ledger: Ledger, tmp_path: Path) -> None:
    plan = open_plan(ledger, trouble=make_trouble(tmp_path, unit_00002="fail-once"))
    assert main(ledger, plan) == 1
    assert commit.committed(units_of(ledger, plan)) == set(range(5))
    assert commit.read_record(units_of(ledger, plan) / "unit-00002")["attempt"] == 2


def test_failing_unit_is_quarantined_with_its_traceback_and_the_rest_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    plan = open_plan(ledger, trouble=make_trouble(tmp_path, unit_00002="fail"))
    assert main(ledger, plan) == 1
    assert commit.committed(units_of(ledger, plan)) == {0, 1, 3, 4}
    found = failures(ledger.run_dir / plan.folder)[2]
    assert [one["message"] for one in found] == ["no luck with unit-00002"] * 3
    assert "make_trouble" in found[0]["traceback"]
    assert commit.drafts(units_of(ledger, plan)) == {}


@pytest.mark.parametrize("words", [[], ["plan"], ["plan", "one"], ["plan", "-1"], ["plan", "1", "2"]])
def test_wrong_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(words) == 2
    assert "usage: python -m rag_hpc.worker PLAN INDEX|rank" in capsys.readouterr().err


def test_stage_that_nobody_knows_exits_2(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = open_plan(ledger)
    monkeypatch.delitem(worker.make_stage.__globals__["STAGES"], "toy.source")
    assert main(ledger, plan) == 2
    assert "no stage is called 'toy.source'" in capsys.readouterr().err


def test_missing_plan_exits_3_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main([str(tmp_path / "submissions" / "0001" / "clean.plan.json"), "0"]) == 3
    text = capsys.readouterr().err
    assert "clean.plan.json: no such plan; the gate before this stage did not pass" in text
    assert "Traceback" not in text


def test_setup_that_raises_exits_1_with_a_traceback(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = open_plan(ledger)

    def setup(self: object, ctx: object) -> None:
        raise KeyError("no model")

    monkeypatch.setattr(toystages.Source, "setup", setup)
    assert main(ledger, plan) == 1
    assert "Traceback" in capsys.readouterr().err
    assert failures(ledger.run_dir / plan.folder) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_drops_the_open_unit_and_exits_3(ledger: Ledger, tmp_path: Path, number: signal.Signals) -> None:
    plan = open_plan(ledger, workers=1, trouble=make_trouble(tmp_path, unit_00001="hang"))
    child = start(ledger, plan)
    wait_for_draft(units_of(ledger, plan), 1)
    child.send_signal(number)
    _, text = child.communicate(timeout=60)
    assert child.returncode == 3, text
    assert "stopped by a signal" in text
    assert os.listdir(units_of(ledger, plan)) == ["unit-00000"]
    assert failures(ledger.run_dir / plan.folder) == {}


def test_walltime_minus_margin_stops_the_worker_with_exit_3(ledger: Ledger, tmp_path: Path) -> None:
    plan = open_plan(ledger, trouble=make_trouble(tmp_path, unit_00000="hang"))
    child = start(ledger, plan, RAG_HPC_WALLTIME_S="3", RAG_HPC_WALLTIME_MARGIN_S="60")
    _, text = child.communicate(timeout=60)  # without the walltime it would not end
    assert child.returncode == 3, text
    assert os.listdir(units_of(ledger, plan)) == []


def test_worker_that_waits_for_others_hears_the_stop(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_plan(ledger, num_units=1)
    commit.open_draft(units_of(ledger, plan), commit.draft_name(plan.units[0], 1, 5, 0))
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: None)
    assert toystages.work(plan, ledger.run_dir, stop=lambda: True) == 3
    assert commit.drafts(units_of(ledger, plan)) != {}


@pytest.mark.parametrize("done_by_other", [False, True])
def test_fenced_worker_stops_and_counts_no_failure(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, done_by_other: bool
) -> None:
    """A later submission swept its draft: that is no fault of the unit, and the later one does the rest."""
    plan, real = open_plan(ledger), toystages.Source.run

    def run(self: toystages.Source, unit: object, out: Path, ctx: object) -> object:
        counts = real(self, unit, out, ctx)  # type: ignore[arg-type]
        commit.sweep(out.parent, submission=2)
        if done_by_other:
            (out.parent / "unit-00000").mkdir()
        return counts

    monkeypatch.setattr(toystages.Source, "run", run)
    assert toystages.work(plan, ledger.run_dir) == 3
    assert os.listdir(units_of(ledger, plan)) == (["unit-00000"] if done_by_other else [])
    assert failures(ledger.run_dir / plan.folder) == {}


@pytest.mark.parametrize("at", ["claim", "open_draft"])
def test_exclusive_unit_is_left_to_a_later_submission_that_claims_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Whenever it does so before the work begins: two workers at one host would ask it twice as often."""
    monkeypatch.setattr(toystages.Source, "exclusive", True)
    monkeypatch.setattr(toystages.Source, "run", lambda *parts: pytest.fail("both work at it"))
    plan = open_plan(ledger)
    carry = commit.carry_dir(ledger.run_dir / plan.folder, plan.units[0])
    module = {"claim": worker, "open_draft": commit}[at]
    real = getattr(module, at)

    def claimed_first(*parts: object) -> object:
        assert take.claim(carry, plan.submission + 1, worker=7)
        return real(*parts)

    monkeypatch.setattr(module, at, claimed_first)
    assert toystages.work(plan, ledger.run_dir) == 3
    assert commit.drafts(units_of(ledger, plan)) == {}
    assert failures(ledger.run_dir / plan.folder) == {}


def test_requeued_worker_goes_on_with_the_exclusive_unit_that_it_had_claimed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toystages.Source, "exclusive", True)
    plan = open_plan(ledger)
    killed_at(ledger, plan, worker=0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert toystages.work(plan, ledger.run_dir) == 0
    assert commit.committed(units_of(ledger, plan)) == set(range(5))


def test_exclusive_unit_of_a_killed_worker_is_the_next_submissions(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toystages.Source, "exclusive", True)
    plan = open_plan(ledger)
    killed_at(ledger, plan, worker=1)
    assert toystages.work(plan, ledger.run_dir) == 0
    assert commit.committed(units_of(ledger, plan)) == set(range(1, 5))
    assert toystages.work(open_plan(ledger), ledger.run_dir) == 0
    assert commit.committed(units_of(ledger, plan)) == set(range(5))


def killed_at(ledger: Ledger, plan: Plan, worker: int) -> None:
    """Leave what a worker leaves that is killed at the first unit."""
    assert take.claim(commit.carry_dir(ledger.run_dir / plan.folder, plan.units[0]), plan.submission, worker)
    commit.open_draft(units_of(ledger, plan), commit.draft_name(plan.units[0], plan.submission, worker, 0))


def test_full_disk_fails_the_unit_and_names_the_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, full = open_plan(ledger, num_units=1), [True]
    real = toystages.write_slowly

    def write(path: Path, data: bytes) -> None:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(toystages, "write_slowly", write)
    assert toystages.work(plan, ledger.run_dir) == 1
    (failure,) = failures(ledger.run_dir / plan.folder)[0]
    assert failure["error"] == "DiskError" and "no space" in failure["message"]
    assert commit.committed(units_of(ledger, plan)) == {0}


def test_disk_too_full_for_the_failure_itself_ends_the_worker(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_plan(ledger)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(DiskError, match="quota is used up"):
        toystages.work(plan, ledger.run_dir)


def test_ranks_with_different_plans_are_told_apart(ledger: Ledger) -> None:
    class Other(SerialComm):
        def broadcast(self, array: object) -> object:  # type: ignore[override]
            return array + 1  # type: ignore[operator]

    plan = open_plan(ledger)
    worker.agree_on_plan(plan, SerialComm())
    with pytest.raises(RagHpcError, match="reads another plan than rank 0"):
        worker.agree_on_plan(plan, Other())  # type: ignore[arg-type]


def test_seed_depends_on_the_unit_and_not_on_the_worker(ledger: Ledger, tmp_path: Path) -> None:
    plan = open_plan(ledger, num_units=2, workers=2)
    other = toystages.new_ledger(tmp_path / "other")
    plan_2 = open_plan(other, num_units=2, workers=5)
    toystages.work(plan, ledger.run_dir, 0)
    toystages.work(plan_2, other.run_dir, 4)
    assert toystages.stage_bytes_of_units(units_of(ledger, plan)) == toystages.stage_bytes_of_units(
        units_of(other, plan_2)
    )


def test_setup_runs_once_and_not_at_all_when_nothing_is_left(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, calls = open_plan(ledger), []
    monkeypatch.setattr(toystages.Source, "setup", lambda self, ctx: calls.append(ctx.scratch.is_dir()))
    toystages.work(plan, ledger.run_dir)
    assert calls == [True]
    toystages.work(plan, ledger.run_dir)
    assert calls == [True]


def test_number_of_workers_is_the_launchers_word(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_plan(ledger, workers=64)
    assert worker.num_workers(plan) == 5  # more than there are units help nobody
    monkeypatch.setenv("RAG_HPC_NUM_WORKERS", "3")
    assert worker.num_workers(plan) == 3
    monkeypatch.setenv("RAG_HPC_LAUNCH", "mpi")
    assert worker.num_workers(plan) == 1
