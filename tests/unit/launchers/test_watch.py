"""Following a run: how it ends, and how seldom the scheduler is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from toystages import run_inline

from rag_hpc.launchers import chain, watch
from rag_hpc.launchers.ledger import Ledger, Request

Ask = Callable[..., Request]


class Clock:
    """Time passes only while somebody sleeps; `events` happen at their second."""

    def __init__(self, **events: Callable[[], object]) -> None:
        self.now, self.events = 0.0, {int(name.removeprefix("at_")): event for name, event in events.items()}

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for second in [s for s in self.events if s <= self.now]:
            self.events.pop(second)()
        assert self.now < 1000, "watch does not end"


@pytest.fixture
def queued(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> Ledger:
    chain.submit(ledger, ask())
    slurm.says("squeue", "1_0|RUNNING|0:01|n1|None|rh-run-toy.source\n")
    return ledger


def follow(ledger: Ledger, clock: Clock) -> int:
    return watch.watch(ledger, sleep=clock.sleep, clock=clock)


def test_finished_run_ends_the_watch(queued: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(queued, Clock(at_20=lambda: run_inline(queued, queued.request()))) == 0
    assert "run=run: finished" in capsys.readouterr().out


def test_stopped_run_says_why(queued: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        value = {"outcome": "stopped", "exit_code": 1, "reason": "toy.source: no luck"}
        queued.outcome_path(1, "toy.source").write_text(json.dumps(value))

    assert follow(queued, Clock(at_10=stop)) == 1
    assert "toy.source: no luck" in capsys.readouterr().err


def test_resubmitted_run_is_followed_on(queued: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    def resubmit() -> None:
        queued.outcome_path(1, "toy.source").write_text(json.dumps({"outcome": "resubmitted"}))
        chain.submit(queued, ask())
        slurm.says("squeue", "5_0|RUNNING|0:01|n1|None|rh-run-toy.source\n")

    assert follow(queued, Clock(at_10=resubmit, at_40=lambda: run_inline(queued, queued.request()))) == 0


def test_gate_that_has_not_queued_its_resubmission_yet_is_no_end(queued: Ledger, slurm: FakeSlurm) -> None:
    slurm.says("squeue", "2|RUNNING|0:01|n1|None|rh-run-toy.source.gate\n")
    clock = Clock(at_10=lambda: queued.submit(queued.request()), at_80=lambda: run_inline(queued, queued.request()))
    assert follow(queued, clock) == 0


def test_cancelled_run_ends_with_work_left(queued: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(queued, Clock(at_4=lambda: queued.add_job(1, stage="", kind="cancel", ids=["1"]))) == 3
    assert f"go on: rag-hpc retry run={queued.handle}" in capsys.readouterr().err


def test_run_without_jobs_ends_and_the_scheduler_is_asked_every_thirty_seconds(
        queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    asked = len(slurm.calls("squeue"))
    (queued.folder(1) / "states.json").unlink(missing_ok=True)

    def lose_jobs() -> None:
        slurm.says("squeue", "".join(f"{i}|COMPLETED|0:01|n1|None|x\n" for i in (1, 2, 3, 4)))
        (queued.folder(1) / "states.json").unlink()

    clock = Clock(at_80=lose_jobs)
    assert follow(queued, clock) == 3 and 90 <= clock.now <= 95
    assert "no job is left in the queue" in capsys.readouterr().err
    assert len(slurm.calls("squeue")) - asked <= 3


def test_silent_scheduler_is_no_end(queued: Ledger, slurm: FakeSlurm) -> None:
    slurm.says("refuse-squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert follow(queued, Clock(at_200=lambda: run_inline(queued, queued.request()))) == 0


def test_closing_the_window_leaves_the_jobs(queued: Ledger, slurm: FakeSlurm,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert follow(queued, Clock(at_4=interrupt)) == 3
    assert "the jobs go on" in capsys.readouterr().err and slurm.calls("scancel") == []


def test_nothing_is_written_by_a_dry_run(tmp_path: Path, toys: dict[str, str], ask: Ask, slurm: FakeSlurm) -> None:
    from rag_hpc.config import Launcher, RunConfig
    from rag_hpc.launchers.dryrun import show

    request = ask("toy.source", "toy.each", "toy.gather", workers=3, cluster={"account": "a'; echo foo"})
    config = RunConfig()
    config.cluster.launcher = Launcher.slurm
    ledger = Ledger(tmp_path / "runs" / "run")
    text = show(ledger, request, config)
    assert text.count("\n#!/bin/bash\n") == 6 and slurm.calls() == []
    assert "toy.source has 5 units" in text and "#SBATCH --array=0-2%3" in text and "#SBATCH --hold" in text
    assert "### toy.source: 3 by array; sbatch --hold\n" in text
    after = show(ledger, request, config, Ledger(tmp_path / "runs" / "first"))
    assert "### toy.source: 3 by array; sbatch --dependency=afterany:LAST_GATE_OF_first --hold\n" in after
    assert "### toy.each: 3 by torchrun; sbatch --dependency=afterok:GATE_OF_toy.source" in text
    assert "### toy.gather: gate; sbatch --dependency=afterany:WORKERS_OF_toy.gather" in text
    assert text.count("""#SBATCH --account='a'"'"'; echo foo'""") == 6
    assert not (tmp_path / "runs").exists()
    config.cluster.launcher = Launcher.local
    plan = f"{tmp_path}/runs/run/submissions/0001/toy.source.plan.json"
    assert f"-m rag_hpc.worker {plan} 2\n" in show(ledger, request, config)
