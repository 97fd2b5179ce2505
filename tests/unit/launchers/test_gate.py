"""The gate after a stage: on, again by cause, or stop; and one log instead of thousands of files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from toystages import work

from rag_hpc.core.plan import Plan, plan_path, read_plan
from rag_hpc.launchers import chain, gate
from rag_hpc.launchers.ledger import Ledger, Request
from rag_hpc.slurm.states import State

Ask = Callable[..., Request]
RunGate = Callable[..., int]


def record(job: int, state: str, exit_code: str = "0:0", *, node: str = "n1", mem: str = "2G",
           task: int | None = None) -> str:
    array = "" if task is None else f"ArrayJobId={job} ArrayTaskId={task} "
    return (f"JobId={job} {array}JobName=x JobState={state} Reason=None ExitCode={exit_code} RunTime=00:01:00 "
            f"NodeList={node} TRES=cpu=1,mem={mem},node=1,billing=1\n")


def first_plan(ledger: Ledger, number: int = 1) -> Plan:
    return read_plan(plan_path(ledger.run_dir, number, "toy.source"))


def do_units(ledger: Ledger, *indices: int, number: int = 1) -> None:
    plan = first_plan(ledger, number)
    assert work(dataclasses.replace(plan, units=[plan.units[i] for i in indices]), ledger.run_dir) == 0


@pytest.fixture
def run_gate(monkeypatch: pytest.MonkeyPatch) -> RunGate:
    """Return a function that runs a gate as its job would."""
    def run(ledger: Ledger, number: int = 1, stage: str = "toy.source") -> int:
        own = next(job["ids"][0] for job in ledger.jobs(number) if (job["stage"], job["kind"]) == (stage, "gate"))
        monkeypatch.setenv("SLURM_JOB_ID", own)
        return gate.main([str(ledger.run_dir), str(number), stage])
    return run


def outcome(ledger: Ledger, number: int = 1, stage: str = "toy.source") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ledger.folder(number) / f"{stage}.outcome.json").read_text())
    return found


@pytest.fixture
def queued(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> Ledger:
    chain.submit(ledger, ask(workers=2, cluster={"max_resubmits": 2}))
    slurm.says("squeue", "2|RUNNING|0:01|n1|None|rh-run-toy.source.gate\n3|PENDING|0:00||Dependency|rh-run-toy.double\n"
                         "4|PENDING|0:00||Dependency|rh-run-toy.double.gate\n")
    return ledger


def test_complete_stage_passes_and_the_next_is_planned(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    do_units(queued, 0, 1, 2, 3, 4)
    assert run_gate(queued) == 0
    assert outcome(queued)["outcome"] == "passed" and plan_path(queued.run_dir, 1, "toy.double").exists()
    assert slurm.calls("scancel") == [] and len(slurm.jobs()) == 4


def test_units_left_after_a_timeout_are_resubmitted_and_the_old_chain_is_cleared(queued: Ledger, slurm: FakeSlurm,
                                                                                 run_gate: RunGate) -> None:
    slurm.says("job-1", record(1, "COMPLETED", task=0) + record(1, "TIMEOUT", task=1))
    do_units(queued, 0, 2)
    assert run_gate(queued) == 3
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]
    assert [job["name"] for job in slurm.jobs()[4:]] == ["rh-run-toy.source", "rh-run-toy.source.gate",
                                                         "rh-run-toy.double", "rh-run-toy.double.gate"]
    assert outcome(queued) | {"reason": ""} == {"outcome": "resubmitted", "stage": "toy.source", "cause": "TIMEOUT",
                                                "reason": "", "submission": 2}
    again = queued.request()
    assert (again.number, again.resubmits, again.cluster["mem_gib"]) == (2, 1, None) and "timeout" in again.reason


def test_out_of_memory_asks_for_twice_as_much(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    slurm.says("job-1", record(1, "OUT_OF_MEMORY", "0:125", mem="1536M", task=0))
    assert run_gate(queued) == 3
    assert queued.request().cluster["mem_gib"] == 3.0
    assert slurm.jobs()[4]["flags"]["mem"] == "3072M"


def test_failed_node_is_avoided(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    slurm.says("job-1", record(1, "NODE_FAIL", "1:0", node="n3"))
    assert run_gate(queued) == 3
    assert queued.request().cluster["exclude"] == "n3" and slurm.jobs()[4]["flags"]["exclude"] == "n3"


def test_of_several_nodes_the_broken_ones_are_avoided(slurm: FakeSlurm) -> None:
    slurm.says("sinfo", "n2\nn4\nn2\n")
    states = [State(state="NODE_FAIL", node="n[1-4]"), State(state="COMPLETED", node="n5")]
    verdict = gate.judge("toy.each", states, begun=True, mem_gib=None)
    from rag_hpc.slurm.client import Slurm

    assert gate.exclude_broken(verdict, states, "n9", Slurm()).changes == {"exclude": "n9,n2,n4"}


def test_without_progress_it_stops_after_max_resubmits(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    codes = []
    for number in (1, 2, 3):
        slurm.says(f"job-{4 * number - 3}", record(4 * number - 3, "TIMEOUT"))
        codes.append(run_gate(queued, number))
    assert codes == [3, 3, 3] and len(slurm.jobs()) == 12
    last = outcome(queued, 3)
    assert (last["outcome"], last["exit_code"]) == ("stopped", 3)
    assert "the last 3 tries committed no unit" in last["reason"]
    assert slurm.calls("scancel")[-1]["argv"] == ["--quiet", "11", "12"]


def test_progress_starts_the_count_anew(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    for number in (1, 2, 3, 4):
        slurm.says(f"job-{4 * number - 3}", record(4 * number - 3, "TIMEOUT"))
        do_units(queued, number, number=number)
        assert run_gate(queued, number) == 3
        assert queued.request().resubmits == 1 and queued.request().number == number + 1


def test_quarantined_units_stop_the_chain(ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path,
                                          run_gate: RunGate) -> None:
    (tmp_path / "trouble").mkdir()
    (tmp_path / "trouble" / "unit-00001").write_text("fail")
    chain.submit(ledger, ask(max_attempts=2, trouble=str(tmp_path / "trouble")))
    assert work(first_plan(ledger), ledger.run_dir) == 1
    assert run_gate(ledger) == 1
    found = outcome(ledger)
    assert found["cause"] == "UnitFailed" and "no luck with unit-00001" in found["reason"]
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]


def test_error_in_planning_the_next_stage_stops_the_chain(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    do_units(queued, 0, 1, 2, 3, 4)
    (queued.run_dir / first_plan(queued).folder / "units" / "unit-00003" / "numbers.bin").write_bytes(b"12345678")
    assert run_gate(queued) == 1
    assert outcome(queued)["cause"] == "CorruptOutput" and slurm.calls("scancel")[-1]["argv"] == ["--quiet", "3", "4"]


def test_bug_in_the_gate_leaves_no_chain_behind(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(gate, "advance", broken)
    assert run_gate(queued) == 1
    assert outcome(queued)["cause"] == "ZeroDivisionError"
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]


def test_resubmission_that_slurm_refuses_stops_with_its_words(queued: Ledger, slurm: FakeSlurm,
                                                              run_gate: RunGate) -> None:
    slurm.says("job-1", record(1, "OUT_OF_MEMORY", mem="600G"))
    slurm.says("refuse-sbatch", "sbatch: error: Memory specification can not be satisfied")
    assert run_gate(queued) == 1
    assert "Memory specification" in outcome(queued)["reason"]


def test_superseded_gate_does_nothing(queued: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate) -> None:
    chain.submit(queued, ask())
    before = len(slurm.calls())
    assert run_gate(queued) == 3
    assert not (queued.folder(1) / "toy.source.outcome.json").exists() and len(slurm.calls()) == before


def test_gate_that_died_while_it_resubmitted_does_it_again(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    queued.submit(queued.request())  # a number was taken, no chain was queued
    slurm.says("job-1", record(1, "PREEMPTED"))
    assert run_gate(queued) == 3
    assert queued.request().number == 3 and len(slurm.jobs()) == 8


@pytest.mark.parametrize(("states", "begun", "again", "cause"), [
    ([State(state="FAILED", exit_code=2)], True, False, "MISCONFIGURED"),
    ([State(state="FAILED", exit_code=127)], False, False, "MISCONFIGURED"),
    ([State(state="FAILED", exit_code=1)], False, False, "FAILED"),
    ([State(state="FAILED", exit_code=1)], True, True, "FAILED"),
    ([State(state="FAILED", exit_code=3), State(state="FAILED", exit_code=1)], False, True, "STOPPED"),
    ([State(state="FAILED", exit_code=139)], False, True, "FAILED"),
    ([State(state="FAILED", exit_code=0, signal=53)], False, True, "FAILED"),
    ([State(state="COMPLETED", exit_code=0)], True, True, "UNFINISHED"),
    ([State()], False, True, "UNFINISHED"),
    ([], False, True, "UNFINISHED"),
    ([State(state="CANCELLED"), State(state="COMPLETED")], True, False, "CANCELLED"),
    ([State(state="PREEMPTED"), State(state="FAILED", exit_code=1)], False, True, "PREEMPTED"),
    ([State(state="OUT_OF_MEMORY")], True, False, "OUT_OF_MEMORY"),
    ([State(state="OUT_OF_MEMORY", mem_gib=2.0), State(state="NODE_FAIL", node="n1")], True, True, "OUT_OF_MEMORY"),
])
def test_causes(states: list[State], begun: bool, again: bool, cause: str) -> None:
    verdict = gate.judge("toy.source", states, begun=begun, mem_gib=None)
    assert (verdict.again, verdict.cause) == (again, cause) and verdict.reason.startswith("toy.source: ")


def test_torchrun_hides_exit_codes_so_its_job_is_tried_again(ledger: Ledger, slurm: FakeSlurm, ask: Ask,
                                                             run_gate: RunGate) -> None:
    chain.submit(ledger, ask("toy.each"))
    slurm.says("job-1", record(1, "FAILED", "1:0", node="n[1-4]"))
    assert run_gate(ledger, stage="toy.each") == 3
    assert outcome(ledger, stage="toy.each")["reason"] == (
        "toy.each: workers ended with units left (exit 1:0 on n[1-4]), again")


def test_logs_are_packed_in_the_order_of_tasks_and_nothing_else_is_left(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    (jobs / "chunk").mkdir(parents=True)
    for name, text in {"7_10_0_log.out": "ten\n", "7_2_0_log.out": "two\n", "7_2_submitted.pkl": "x",
                       "7_submission.sh": "x"}.items():
        (jobs / "chunk" / name).write_text(text)
    (jobs / "chunk.9.log").write_text("collective\n")
    (jobs / "chunk.more.9.log").write_text("another stage's\n")
    (tmp_path / "chunk.log").write_text("before\n")
    assert gate.pack_logs(tmp_path, "chunk") == 3
    assert (tmp_path / "chunk.log").read_text() == (
        "before\n==> 7_2_0_log.out\ntwo\n==> 7_10_0_log.out\nten\n==> chunk.9.log\ncollective\n")
    assert [p.name for p in jobs.iterdir()] == ["chunk.more.9.log"]


def test_folder_of_logs_stays_for_the_stages_to_come(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    for later in (queued.folder(1) / "jobs" / "toy.double").iterdir():
        later.unlink()
    (queued.folder(1) / "jobs" / "toy.double").rmdir()  # as it is when the next stage is a collective one
    do_units(queued, 0, 1, 2, 3, 4)
    assert run_gate(queued) == 0
    assert (queued.folder(1) / "jobs").is_dir()  # Slurm makes no folder for a job's output; the job would fail
