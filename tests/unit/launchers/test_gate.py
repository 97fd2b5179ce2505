"""The gate after a stage: on, again by cause, or stop; and one log instead of thousands of files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, outcome, record
from toystages import work

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import Plan, plan_path, read_plan
from rag_hpc.launchers import chain, gate
from rag_hpc.slurm.scripts import folder_mark
from rag_hpc.slurm.states import State

Ask = Callable[..., Request]
RunGate = Callable[..., int]


def first_plan(ledger: Ledger, number: int = 1) -> Plan:
    return read_plan(plan_path(ledger.run_dir, number, "toy.source"))


def do_units(ledger: Ledger, *indices: int, number: int = 1) -> None:
    plan = first_plan(ledger, number)
    assert work(dataclasses.replace(plan, units=[plan.units[i] for i in indices]), ledger.run_dir) == 0


@pytest.fixture
def queued(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> Ledger:
    chain.submit(ledger, ask(workers=2, cluster={"max_resubmits": 2}))
    slurm.says(
        "squeue",
        "2|RUNNING|0:01|n1|None|rh-run-toy.source.gate\n3|PENDING|0:00||Dependency|rh-run-toy.double\n"
        "4|PENDING|0:00||Dependency|rh-run-toy.double.gate\n",
    )
    return ledger


def test_complete_stage_passes_and_the_next_is_planned(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    do_units(queued, 0, 1, 2, 3, 4)
    assert run_gate(queued) == 0
    assert outcome(queued)["outcome"] == "passed" and plan_path(queued.run_dir, 1, "toy.double").exists()
    assert slurm.calls("scancel") == [] and len(slurm.jobs()) == 4


def test_units_left_after_a_timeout_are_resubmitted_and_the_old_chain_is_cleared(
    queued: Ledger, slurm: FakeSlurm, run_gate: RunGate
) -> None:
    slurm.says("job-1", record(1, "COMPLETED", task=0) + record(1, "TIMEOUT", task=1))
    do_units(queued, 0, 2)
    assert run_gate(queued) == 3
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]
    assert [job["name"] for job in slurm.jobs()[4:]] == [
        "rh-run-toy.source",
        "rh-run-toy.source.gate",
        "rh-run-toy.double",
        "rh-run-toy.double.gate",
    ]
    assert outcome(queued) | {"reason": ""} == {
        "outcome": "resubmitted",
        "stage": "toy.source",
        "cause": "TIMEOUT",
        "reason": "",
        "submission": 2,
    }
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


def test_quarantined_units_stop_the_chain(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path, run_gate: RunGate
) -> None:
    (tmp_path / "trouble").mkdir()
    (tmp_path / "trouble" / "unit-00001").write_text("fail")
    chain.submit(ledger, ask(max_attempts=2, trouble=str(tmp_path / "trouble")))
    assert work(first_plan(ledger), ledger.run_dir) == 1
    slurm.says("job-1", record(1, "FAILED", "1:0"))
    assert run_gate(ledger) == 1
    found = outcome(ledger)
    assert found["cause"] == "UnitFailed" and "no luck with unit-00001" in found["reason"]
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]


def test_error_in_planning_the_next_stage_stops_the_chain(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    do_units(queued, 0, 1, 2, 3, 4)
    (queued.run_dir / first_plan(queued).folder / "units" / "unit-00003" / "numbers.bin").write_bytes(b"12345678")
    assert run_gate(queued) == 1
    assert outcome(queued)["cause"] == "CorruptOutput" and slurm.calls("scancel")[-1]["argv"] == ["--quiet", "3", "4"]


def test_bug_in_the_gate_leaves_no_chain_behind(
    queued: Ledger, slurm: FakeSlurm, run_gate: RunGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(gate, "advance", broken)
    assert run_gate(queued) == 1
    assert outcome(queued)["cause"] == "ZeroDivisionError"
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]


def test_resubmission_that_slurm_refuses_stops_with_its_words(
    queued: Ledger, slurm: FakeSlurm, run_gate: RunGate
) -> None:
    slurm.says("job-1", record(1, "OUT_OF_MEMORY", mem="600G"))
    slurm.says("refuse-sbatch", "sbatch: error: Memory specification can not be satisfied")
    assert run_gate(queued) == 1
    assert "Memory specification" in outcome(queued)["reason"]


def test_gate_that_starts_because_the_one_before_it_died_stops_the_chain(
    queued: Ledger, slurm: FakeSlurm, run_gate: RunGate
) -> None:
    """The gate before it was preempted or lost its node; Slurm then cancelled the workers between the two."""
    assert run_gate(queued, stage="toy.double") == 3
    found = outcome(queued, stage="toy.double")
    assert (found["outcome"], found["cause"], found["exit_code"]) == ("stopped", "GATE_LOST", 3)
    assert found["reason"].startswith("toy.source: its gate was preempted, cancelled or lost its node")


def test_workers_that_were_killed_are_tried_again_whoever_tells_of_it(
    queued: Ledger, slurm: FakeSlurm, run_gate: RunGate
) -> None:
    """Their first unit, and the controller has forgotten them: accounting tells 9:0."""
    slurm.says("sacct", "1_0|FAILED|9:0|0:9|5|n1||rh-run-toy.source\n1_1|FAILED|2:0|0:2|5|n1||rh-run-toy.source\n")
    assert run_gate(queued) == 3
    assert (outcome(queued)["outcome"], outcome(queued)["cause"]) == ("resubmitted", "FAILED")


def test_all_tasks_of_a_finished_stage_but_the_own_are_ended_when_one_hangs(
    queued: Ledger, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    name = f"rh-run-toy.source-{folder_mark(queued.run_dir)}.1"
    rows = [("1_0", "RUNNING", name), ("1_1", "RUNNING", name), ("1_2", "COMPLETED", name), ("1_3", "RUNNING", "other")]
    slurm.says("squeue", "".join(f"{key}|{state}|0:01|n1|None|{job}\n" for key, state, job in rows))
    plan_file, units = (
        queued.submission(1).plan_path("toy.source"),
        queued.run_dir / first_plan(queued).folder / "units",
    )
    hanging = units / ".draft-unit-00001.s0001.w0001.r0-77"
    hanging.mkdir()
    do_units(queued, 0, 2, 3, 4)
    gate.let_go(plan_file)
    assert slurm.calls("scancel") == [] and hanging.exists()  # a unit is still open
    hanging.rmdir()  # for whose end a worker would wait
    do_units(queued, 1)
    hanging.mkdir()
    gate.let_go(plan_file)
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "1_1"]] and not hanging.exists()
    gate.let_go(plan_file)  # the next worker that ends finds no draft, and asks nobody
    assert len(slurm.calls("scancel")) == 1


def test_superseded_gate_decides_nothing_and_takes_what_waits_behind_it_out_of_the_queue(
    queued: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    chain.submit(queued, ask())
    queued.submit(queued.request())  # by a command that was killed then
    (slurm.folder / "calls").write_text("".join(json.dumps(c) + "\n" for c in slurm.calls() if c["name"] == "sbatch"))
    (queued.folder(1) / "jobs" / "toy.double").mkdir()
    (queued.folder(1) / "jobs" / "toy.double" / "3_0_submitted.pkl").touch()
    assert run_gate(queued) == 3
    assert not (queued.folder(1) / "toy.source.outcome.json").exists() and len(slurm.jobs()) == 8
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3", "4"]]
    assert list((queued.folder(1) / "jobs").rglob("*.pkl")) == [] != list((queued.folder(2) / "jobs").rglob("*.pkl"))


def test_gate_that_died_while_it_resubmitted_does_it_again(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    queued.submit(queued.request())  # a number was taken, no chain was queued
    slurm.says("job-1", record(1, "PREEMPTED"))
    assert run_gate(queued) == 3
    assert queued.request().number == 3 and len(slurm.jobs()) == 8


@pytest.mark.parametrize(
    ("states", "begun", "again", "cause"),
    [
        ([State(state="FAILED", exit_code=2)], True, False, "MISCONFIGURED"),
        ([State(state="FAILED", exit_code=127)], False, False, "MISCONFIGURED"),
        ([State(state="FAILED", exit_code=1)], False, False, "FAILED"),
        ([State(state="FAILED", exit_code=1)], True, True, "FAILED"),
        ([State(state="FAILED", exit_code=3), State(state="FAILED", exit_code=1)], False, True, "STOPPED"),
        ([State(state="FAILED", exit_code=0, signal=11)], False, True, "FAILED"),
        ([State(state="FAILED", exit_code=0, signal=53)], False, True, "FAILED"),
        ([State(state="COMPLETED", exit_code=0)], True, True, "UNFINISHED"),
        ([State()], False, True, "UNFINISHED"),
        ([], False, True, "UNFINISHED"),
        ([State(state="CANCELLED"), State(state="COMPLETED")], True, False, "CANCELLED"),
        ([State(state="PREEMPTED"), State(state="FAILED", exit_code=1)], False, True, "PREEMPTED"),
        ([State(state="OUT_OF_MEMORY")], True, False, "OUT_OF_MEMORY"),
        ([State(state="OUT_OF_MEMORY", mem_gib=2.0), State(state="NODE_FAIL", node="n1")], True, True, "OUT_OF_MEMORY"),
    ],
)
def test_causes(states: list[State], begun: bool, again: bool, cause: str) -> None:
    verdict = gate.judge("toy.source", states, begun=begun, mem_gib=None)
    assert (verdict.again, verdict.cause) == (again, cause) and verdict.reason.startswith("toy.source: ")


def test_memory_of_the_whole_node_cannot_be_doubled() -> None:
    verdict = gate.judge("toy.source", [State(state="OUT_OF_MEMORY", mem_gib=5.0)], begun=True, mem_gib=0.0)
    assert not verdict.again and "all that a node has" in verdict.reason


def test_torchrun_hides_exit_codes_so_its_job_is_tried_again(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    chain.submit(ledger, ask("toy.each"))
    slurm.says("job-1", record(1, "FAILED", "1:0", node="n[1-4]"))
    assert run_gate(ledger, stage="toy.each") == 3
    assert outcome(ledger, stage="toy.each")["reason"] == (
        "toy.each: workers ended with units left (exit 1:0 on n[1-4]), again"
    )


def test_logs_are_packed_in_the_order_of_tasks_and_nothing_else_is_left(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    (jobs / "chunk").mkdir(parents=True)
    for name, text in {
        "7_10_0_log.out": "ten\n",
        "7_2_0_log.out": "two\n",
        "7_2_submitted.pkl": "x",
        "7_submission.sh": "x",
    }.items():
        (jobs / "chunk" / name).write_text(text)
    (jobs / "chunk.9.log").write_text("collective\n")
    (jobs / "chunk.more.9.log").write_text("another stage's\n")
    (tmp_path / "chunk.log").write_text("before\n")
    assert gate.pack_logs(tmp_path, "chunk") == 3
    assert (tmp_path / "chunk.log").read_text() == (
        "before\n==> 7_2_0_log.out\ntwo\n==> 7_10_0_log.out\nten\n==> chunk.9.log\ncollective\n"
    )
    assert [p.name for p in jobs.iterdir()] == ["chunk.more.9.log"]


def test_folder_of_logs_stays_for_the_stages_to_come(queued: Ledger, slurm: FakeSlurm, run_gate: RunGate) -> None:
    for later in (queued.folder(1) / "jobs" / "toy.double").iterdir():
        later.unlink()
    (queued.folder(1) / "jobs" / "toy.double").rmdir()  # as it is when the next stage is a collective one
    do_units(queued, 0, 1, 2, 3, 4)
    assert run_gate(queued) == 0
    assert (queued.folder(1) / "jobs").is_dir()  # Slurm makes no folder for a job's output; the job would fail
