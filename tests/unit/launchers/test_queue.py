"""Nothing is left in the queue, nobody else's job is touched: killed commands, lost answers, odd sites, few places."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, outcome, record
from toystages import new_ledger, run_inline, toy_request, work

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import plan_path, read_plan
from rag_hpc.errors import ClusterError, ConfigError, IncompleteError, Interrupted
from rag_hpc.launchers import cancel, chain, clean
from rag_hpc.slurm import scripts
from rag_hpc.slurm.client import NoPlaces, Slurm

Ask = Callable[..., Request]
RunGate = Callable[..., int]
THREE = ("toy.source", "toy.double", "toy.each")


def scancels(slurm: FakeSlurm) -> list[list[str]]:
    return [call["argv"][1:] for call in slurm.calls("scancel")]


def in_queue(slurm: FakeSlurm) -> dict[str, str]:
    """Return the names of all jobs in the queue, without the marks of runs."""
    names = Slurm().queued()
    return {job_id: re.sub(r"-[0-9a-f]{8}\.\d+$", "", name) for job_id, name in names.items()}


def pickles(ledger: Ledger) -> list[Path]:
    return [*ledger.run_dir.rglob("*.pkl"), *ledger.run_dir.glob("submissions/*/jobs/*")]


def do(ledger: Ledger, slurm: FakeSlurm, stage: str, *ended: int) -> None:
    """Do a stage's units; these jobs are over."""
    assert work(read_plan(plan_path(ledger.run_dir, 1, stage)), ledger.run_dir) == 0
    for number in ended:
        slurm.says(f"job-{number}", record(number, "COMPLETED"))


def leave_jobs(ledger: Ledger, ask: Ask) -> None:
    """Leave what a command leaves that is killed just after sbatch has queued jobs: a number, and no line of them."""
    submission = ledger.submit(ask())
    for job in chain.stage_jobs(submission, dict.fromkeys(submission.request.stages, 4), None):
        Slurm().submit(scripts.gate_script(job, chain.cluster_of(submission.request)), args=["--hold"])


def test_sbatch_that_prints_a_banner_with_a_job_in_it_is_read_to_the_end(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    slurm.says("banner", "Submitting job 77 of 90 today\n2026\n")
    chain.submit(ledger, ask())
    assert [job["dependency"] for job in slurm.jobs()] == [None, "afterany:1", "afterok:2", "afterany:3"]
    assert slurm.calls()[-1]["argv"] == ["release", "4,3,2,1"] and scancels(slurm) == []


def test_id_of_somebody_else_s_job_is_neither_let_go_nor_cancelled(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    slurm.says("answer", "4711")
    slurm.says("job-4711", record(4711, "RUNNING"))
    with pytest.raises(ClusterError, match=r"sbatch gave 4711, but no such job of run is in the queue.*type sbatch"):
        chain.submit(ledger, ask())
    assert scancels(slurm) == [["1", "2", "3", "4"]] and not pickles(ledger)
    assert not any("release" in call["argv"] for call in slurm.calls("scontrol"))


def test_job_that_a_lagging_squeue_does_not_list_yet_is_asked_of_the_controller(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slurm, "queued", lambda self: {})
    submission = ledger.submit(ask())
    for number, job in enumerate(chain.stage_jobs(submission, dict.fromkeys(submission.request.stages, 4), None)):
        for job_id, kind in ((2 * number + 1, ""), (2 * number + 2, ".gate")):
            slurm.says(f"job-{job_id}", record(job_id, "PENDING").replace("JobName=x", f"JobName={job.name(kind)}"))
    laid_out = chain.Chain(submission, chain.cluster_of(submission.request), Slurm())
    laid_out.lay_out(chain.stage_jobs(submission, dict.fromkeys(submission.request.stages, 4), None))
    assert slurm.calls()[-1]["argv"] == ["release", "4,3,2,1"]


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_job_that_was_queued_though_sbatch_failed_goes_with_the_rest(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, lost: int
) -> None:
    slurm.says("lose", str(lost))
    with pytest.raises(ClusterError, match="Socket timed out"):
        chain.submit(ledger, ask())
    assert in_queue(slurm) == {} and scancels(slurm) == [[str(n + 1) for n in range(lost)]] and not pickles(ledger)


def test_what_a_killed_command_left_is_found_by_every_verb(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    leave_jobs(ledger, ask)
    with pytest.raises(ConfigError, match=r"2 workers or jobs of it are still there; first: rag-hpc cancel"):
        clean.refuse_while_busy(ledger)
    assert cancel.cancel_run(ledger) == "cancelled 2 jobs: 1, 2" and in_queue(slurm) == {}
    leave_jobs(ledger, ask)
    chain.submit(ledger, ask())
    assert scancels(slurm) == [["1", "2"], ["3", "4"]] and [*in_queue(slurm)] == ["5", "6", "7", "8"]


def test_jobs_are_cancelled_though_the_run_went_on_here(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    chain.submit(ledger, ask("toy.source"))
    ledger.submit(toy_request("run"))
    with pytest.raises(ConfigError, match="2 workers or jobs"):
        clean.refuse_while_busy(ledger)
    assert cancel.cancel_run(ledger) == "no worker of it was running on this machine, cancelled 2 jobs: 1, 2"


def test_run_of_the_same_name_elsewhere_and_one_whose_name_is_longer_are_left_alone(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path
) -> None:
    others = [new_ledger(tmp_path / "elsewhere" / "run"), new_ledger(tmp_path / "run-toy.source")]
    for other in others:
        chain.submit(other, ask("toy.source"))
    chain.submit(ledger, ask("toy.source"))
    assert cancel.cancel_run(ledger) == "cancelled 2 jobs: 5, 6"
    assert [*in_queue(slurm)] == ["1", "2", "3", "4"]


def test_job_queued_by_an_sbatch_that_outlived_its_command_goes_when_the_run_ends(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    leave_jobs(ledger, ask)
    late = (slurm.folder / "calls").read_text()
    (slurm.folder / "calls").write_text("")
    chain.submit(ledger, ask("toy.source"))
    before = slurm.calls("sbatch")
    with (slurm.folder / "calls").open("a") as log:
        log.write(late)
    run_inline(ledger.submission())
    assert run_gate(ledger, 2) == 0 and len(before) == 2
    assert scancels(slurm) == [["3", "4"]] and outcome(ledger, 2)["outcome"] == "passed"


class Meanwhile(Slurm):
    """Does something right after the second job was queued."""

    def __init__(self, happens: Callable[[], Any]) -> None:
        super().__init__()
        self.happens, self.num_jobs = happens, 0

    def submit(self, *args: Any, **kwargs: Any) -> str:
        found = super().submit(*args, **kwargs)
        self.num_jobs += 1
        if self.num_jobs == 2:
            self.happens()
        return found


def test_of_two_submits_at_once_the_later_stays_and_the_earlier_says_so(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    with pytest.raises(IncompleteError, match=r"submission 2 took over while this one, 1, was queued.*rag-hpc status"):
        chain.submit(ledger, ask(), slurm=Meanwhile(lambda: chain.submit(ledger, ask("toy.source"))))
    assert scancels(slurm)[0] == ["1", "2"] and in_queue(slurm) == {
        "3": "rh-run-toy.source",
        "4": "rh-run-toy.source.gate",
    }
    assert [call["argv"] for call in slurm.calls("scontrol") if "release" in call["argv"]] == [["release", "4,3"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_command_that_is_told_to_end_amid_a_submit_clears_its_jobs(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, number: signal.Signals
) -> None:
    with pytest.raises(Interrupted, match=f"{number.name}.*rag-hpc retry"):
        chain.submit(ledger, ask(), slurm=Meanwhile(lambda: os.kill(os.getpid(), number)))
    assert in_queue(slurm) == {} and scancels(slurm) == [["1", "2"]] and not pickles(ledger)


def test_controller_that_is_away_when_a_failed_submit_is_cleared_leaves_the_first_error_and_a_hint(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        slurm.says("refuse-squeue", "slurm_load_jobs error: Access denied")
        slurm.says("refuse-sbatch", "sbatch: error: Invalid qos specification")

    with pytest.raises(ClusterError, match="Invalid qos"):
        chain.submit(ledger, ask(), slurm=Meanwhile(away))
    assert re.search(r"held jobs may be left in the queue .*: rag-hpc cancel run=", caplog.text)


def test_as_many_stages_as_fit_are_queued_and_the_last_gate_queues_the_rest(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate, caplog: pytest.LogCaptureFixture
) -> None:
    slurm.says("places", "4")
    chain.submit(ledger, ask(*THREE, workers=1))
    assert "room for 2 of 3 stages" in caplog.text
    assert ledger.jobs(1)[-1]["stages"] == ["toy.source", "toy.double"] and len(in_queue(slurm)) == 4
    do(ledger, slurm, "toy.source", 1)
    assert run_gate(ledger) == 0 and len(slurm.jobs()) == 5  # the third stage's first try among them
    do(ledger, slurm, "toy.double", 2, 3)
    assert run_gate(ledger, stage="toy.double") == 0
    slurm.says("job-4", record(4, "COMPLETED"))
    assert [*in_queue(slurm).values()] == ["rh-run-toy.each", "rh-run-toy.each.gate"]
    assert (slurm.jobs()[5]["dependency"], slurm.calls("scontrol")[-1]["argv"]) == (None, ["release", "7,6"])
    assert ledger.jobs(1)[-1]["stages"] == ["toy.each"]
    run_inline(ledger.submission())
    assert run_gate(ledger, stage="toy.each") == 0 and len(slurm.jobs()) == 7


def test_least_number_of_places_that_is_named_is_enough(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    slurm.says("places", "3")
    chain.submit(ledger, ask(*THREE, workers=1))
    do(ledger, slurm, "toy.source", 1)
    assert run_gate(ledger) == 0
    slurm.says("job-2", record(2, "COMPLETED"))
    gate = [job["ids"][0] for job in ledger.jobs(1) if job["kind"] == "gate"][-1]
    do(ledger, slurm, "toy.double", int(gate) - 1)
    assert run_gate(ledger, stage="toy.double") == 0
    assert [job["stages"] for job in ledger.jobs(1) if job["kind"] == "released"] == [[stage] for stage in THREE]


def test_gate_that_was_killed_while_it_queued_the_rest_does_it_again_and_leaves_no_half(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    slurm.says("places", "4")
    submission = chain.submit(ledger, ask(*THREE, workers=1))
    do(ledger, slurm, "toy.source", 1)
    assert run_gate(ledger) == 0
    do(ledger, slurm, "toy.double", 2, 3)
    half = chain.stage_jobs(submission, dict.fromkeys(submission.request.stages, 4), None)[2]
    Slurm().submit(scripts.gate_script(half, chain.cluster_of(submission.request)), args=["--hold"])
    assert run_gate(ledger, stage="toy.double") == 0
    assert scancels(slurm) == [["6"]] and slurm.calls()[-1]["argv"] == ["release", "8,7"]


@pytest.mark.parametrize(("places", "workers", "least"), [(1, 1, 3), (2, 1, 3), (4, 4, 6)])
def test_too_few_places_are_refused_with_the_least_number_and_lower_workers_only_where_it_helps(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, places: int, workers: int, least: int
) -> None:
    slurm.says("places", str(places))
    with pytest.raises(NoPlaces, match=f"AssocMaxSubmitJobLimit.*At least {least} places are needed") as caught:
        chain.submit(ledger, ask(workers=workers))
    assert ("lower workers" in str(caught.value)) is (workers > 1)
    assert in_queue(slurm) == {} and not pickles(ledger)


def test_gate_that_finds_no_room_for_the_rest_stops_with_work_left(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    slurm.says("places", "4")
    chain.submit(ledger, ask(*THREE, workers=1))
    do(ledger, slurm, "toy.source", 1)
    assert run_gate(ledger) == 0
    do(ledger, slurm, "toy.double", 2, 3)
    slurm.says("places", "2")  # another run of ours came between
    assert run_gate(ledger, stage="toy.double") == 3
    found = outcome(ledger, stage="toy.double")
    assert found["exit_code"] == 3 and re.search(r"At least 3 places.*rag-hpc retry", found["reason"])
    assert [*in_queue(slurm)] == ["4"] and not pickles(ledger)


def test_pickles_of_arrays_that_never_began_go_with_a_gate_that_stops_and_with_clean(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, run_gate: RunGate
) -> None:
    chain.submit(ledger, ask())
    slurm.says("job-1", record(1, "FAILED", "2:0"))
    assert pickles(ledger) and run_gate(ledger) == 1 and not pickles(ledger)
    chain.submit(ledger, ask())
    slurm.says("squeue", "")  # scancel, by hand
    assert pickles(ledger) and clean.remove_stale(ledger) == 0 and not pickles(ledger)
