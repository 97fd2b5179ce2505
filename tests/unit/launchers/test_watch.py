"""Following a run: how it ends, and how seldom the scheduler is asked."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from fake_slurm import FakeSlurm
from toystages import run_inline

from rag_hpc import cli
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.launchers import chain, watch

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
    assert follow(queued, Clock(at_20=lambda: run_inline(queued.submission()))) == 0
    assert "run=run: finished" in capsys.readouterr().out


def test_stopped_run_says_why(queued: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        value = {"outcome": "stopped", "exit_code": 1, "reason": "toy.source: no luck"}
        queued.submission(1).outcome_path("toy.source").write_text(json.dumps(value))

    assert follow(queued, Clock(at_10=stop)) == 1
    assert "toy.source: no luck" in capsys.readouterr().err


def test_resubmitted_run_is_followed_on(queued: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    def resubmit() -> None:
        queued.submission(1).outcome_path("toy.source").write_text(json.dumps({"outcome": "resubmitted"}))
        chain.submit(queued, ask())
        slurm.says("squeue", "5_0|RUNNING|0:01|n1|None|rh-run-toy.source\n")

    assert follow(queued, Clock(at_10=resubmit, at_40=lambda: run_inline(queued.submission()))) == 0


def test_gate_that_has_not_queued_its_resubmission_yet_is_no_end(queued: Ledger, slurm: FakeSlurm) -> None:
    slurm.says("squeue", "2|RUNNING|0:01|n1|None|rh-run-toy.source.gate\n")
    clock = Clock(at_10=lambda: queued.submit(queued.request()), at_80=lambda: run_inline(queued.submission()))
    assert follow(queued, clock) == 0


def test_cancelled_run_ends_with_work_left(queued: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(queued, Clock(at_4=lambda: queued.submission(1).add_job(stage="", kind="cancel", ids=["1"]))) == 3
    assert f"go on: rag-hpc retry run={queued.handle}" in capsys.readouterr().err


def test_run_without_jobs_ends_and_the_scheduler_is_asked_every_thirty_seconds(
    queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = len(slurm.calls("squeue"))
    (queued.folder(1) / "states.json").unlink(missing_ok=True)

    def lose_jobs() -> None:
        slurm.says("squeue", "".join(f"{i}|COMPLETED|0:01|n1|None|x\n" for i in (1, 2, 3, 4)))
        (queued.folder(1) / "states.json").unlink()

    clock = Clock(at_80=lose_jobs)
    assert follow(queued, clock) == 3 and 90 <= clock.now <= 95
    assert "no job is left in the queue" in capsys.readouterr().err
    assert len(slurm.calls("squeue")) - asked <= 3


CHAIN = "2|PENDING|0:00||Dependency|g\n3|PENDING|0:00||Dependency|w\n4|PENDING|0:00||Dependency|g\n"


def test_jobs_that_will_never_start_end_the_watch_with_what_to_set(
    queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.says("squeue", f"1_[0-3]|PENDING|0:00||PartitionTimeLimit|w\n{CHAIN}")
    assert follow(queued, Clock()) == 3
    assert "toy.source: will never start: its walltime is over the limit" in capsys.readouterr().err


def test_chain_behind_a_gate_that_died_ends_the_watch(
    queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.says(
        "squeue",
        "1_0|COMPLETED|0:01|n1|None|w\n2|PREEMPTED|0:01|n1|None|g\n3|PENDING|0:00||DependencyNeverSatisfied|w\n"
        "4|PENDING|0:00||Dependency|g\n",
    )
    assert follow(queued, Clock()) == 3
    assert "toy.double: will never start: what it waits for has failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "line", "step"),
    [
        (
            "1_[0-3]|PENDING|0:00||Priority|w\n",
            "4 PENDING waiting in the queue (Priority): nothing to do",
            "it goes on by itself: nothing to do",
        ),
        ("1_0|RUNNING|0:01|n1|None|w\n", "toy.source workers RUNNING", "it goes on by itself: nothing to do"),
        (
            "1_[0-3]|PENDING|0:00||BadConstraints|w\n",
            "4 PENDING will never start: no node has what it asks for (BadConstraints); set cluster.gres",
            "nothing goes on as it is: mend what is named and give the rag-hpc run command again",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["status", "why"])
def test_status_and_why_say_what_a_queued_job_waits_for_and_advise_no_retry(
    queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], verb: str, first: str, line: str, step: str
) -> None:
    slurm.says("squeue", first + CHAIN)
    assert cli.main([verb, f"run={queued.run_dir}"]) == 3
    said = capsys.readouterr().out
    assert line in said and step in said.splitlines()[-1] and "retry" not in said


def test_status_says_which_jobs_were_superseded_and_advises_a_retry_only_when_none_is_left(
    queued: Ledger, slurm: FakeSlurm, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.submit(queued, ask())
    slurm.says("squeue", "2|PENDING|0:00||Dependency|g\n5_0|RUNNING|0:01|n1|None|w\n")
    assert cli.main(["status", f"run={queued.run_dir}"]) == 3
    said = capsys.readouterr().out
    assert "job 2: toy.source gate PENDING superseded by submission 2\n" in said and "retry" not in said
    (queued.folder(2) / "states.json").unlink()
    slurm.says("squeue", "2|PENDING|0:00||Dependency|g\n5_0|FAILED|0:01|n1|None|w\n")
    assert cli.main(["status", f"run={queued.run_dir}"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == f"go on: rag-hpc retry run={queued.handle}"


def test_silent_scheduler_is_no_end(queued: Ledger, slurm: FakeSlurm) -> None:
    slurm.says("refuse-squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert follow(queued, Clock(at_200=lambda: run_inline(queued.submission()))) == 0


def test_closing_the_window_leaves_the_jobs(
    queued: Ledger, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert follow(queued, Clock(at_4=interrupt)) == 3
    assert "the jobs go on" in capsys.readouterr().err and slurm.calls("scancel") == []
