"""Stopping runs: only what is the run's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import toystages
from fake_slurm import FakeSlurm
from toystages import toy_request

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.launchers import cancel, chain

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_live_jobs_are_cancelled_in_one_call_and_it_is_written_down(
    ledger: Ledger, slurm: FakeSlurm, ask: Callable[..., Request]
) -> None:
    chain.submit(ledger, ask())
    slurm.says(
        "squeue",
        "1_0|COMPLETED|1:00|n1|None|rh-run-toy.source\n1_1|RUNNING|1:00|n2|None|rh-run-toy.source\n"
        "2|PENDING|0:00||Dependency|rh-run-toy.source.gate\n3|CANCELLED|0:00||None|rh-run-toy.double\n",
    )
    assert cancel.cancel_run(ledger) == "cancelled 2 jobs: 1, 2"
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "1", "2"]]
    assert ledger.jobs(1)[-1]["kind"] == "cancel"


def test_run_with_no_job_in_the_queue_says_so(ledger: Ledger, slurm: FakeSlurm, ask: Callable[..., Request]) -> None:
    chain.submit(ledger, ask())
    slurm.says("squeue", "")
    assert cancel.cancel_run(ledger) == "no job of it was in the queue" and slurm.calls("scancel") == []


def test_jobs_of_every_submission_are_cancelled_and_their_pickles_dropped(
    ledger: Ledger, slurm: FakeSlurm, ask: Callable[..., Request], tmp_path: Path
) -> None:
    """The same run twice at once left the first chain in the queue, and `cancel` looked at the second alone."""
    chain.submit(ledger, ask())
    lines = [f"{job['id']}|PENDING|0:00||Dependency|{job['name']}\n" for job in slurm.jobs()]
    slurm.says("squeue", "")
    chain.submit(ledger, ask())
    chain.submit(toystages.new_ledger(tmp_path / "other" / "run"), ask())  # of the same name in another folder
    (slurm.folder / "squeue").write_text("".join(lines))
    assert cancel.cancel_run(ledger) == "cancelled 8 jobs: 1, 2, 3, 4, 5, 6, 7, 8"
    assert list(ledger.run_dir.rglob("*.pkl")) == []
    assert list((tmp_path / "other").rglob("*.pkl")) != []


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*SLEEPER, *words], start_new_session=True)


def test_local_workers_are_stopped_and_strangers_are_not(ledger: Ledger) -> None:
    submission = ledger.submit(toy_request("run"))
    plan = str(ledger.folder(1) / "toy.source.plan.json")
    ours = [start("rag_hpc.worker", plan, "0"), start("torch.distributed.run", "rag_hpc.worker", plan, "rank")]
    others = [start("rag_hpc.worker", str(ledger.run_dir) + "2/submissions/0001/x.plan.json"), start(plan)]
    try:
        pids = [child.pid for child in ours + others]
        submission.add_job(stage="toy.source", kind="workers", pids=[*pids, 2**22 + 1])

        def reap(_: float) -> None:
            for child in ours:
                child.wait(60)

        assert cancel.cancel_local(ledger, sleep=reap) == "stopped 2 workers"
        assert all(child.poll() is None for child in others)
        assert cancel.cancel_run(ledger) == "no worker of it was running on this machine"
    finally:
        for child in ours + others:
            child.kill()
            child.wait()


def test_worker_that_finishes_its_unit_first_is_named(ledger: Ledger, tmp_path: Path) -> None:
    submission = ledger.submit(toy_request("run"))
    pid = os.getpid()
    (tmp_path / "proc" / "4194305").mkdir(parents=True)
    plan = ledger.folder(1) / "toy.source.plan.json"
    (tmp_path / "proc" / "4194305" / "cmdline").write_bytes(f"python\0-m\0rag_hpc.worker\0{plan}\0000\0".encode())
    submission.add_job(stage="toy.source", kind="workers", pids=[2**22 + 1, pid])
    said = cancel.cancel_local(ledger, sleep=lambda _: None, proc=tmp_path / "proc")
    assert said == "asked 1 workers to stop; still at work on their units: 4194305"
