"""The chain as it is laid out: what depends on what, in what order, and what a failed submit leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import toystages
from fake_slurm import FakeSlurm
from toystages import run_inline

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.errors import ClusterError, ConfigError, MissingDependency
from rag_hpc.launchers import chain
from rag_hpc.slurm.client import Slurm

Ask = Callable[..., Request]


def edges(slurm: FakeSlurm) -> dict[str, str | None]:
    """Return job name -> what it waits for, by names."""
    names = {job["id"]: job["name"].removeprefix("rh-run-toy.") for job in slurm.jobs()}
    found: dict[str, str | None] = {}
    for job in slurm.jobs():
        kind, _, ids = (job["dependency"] or "").partition(":")
        found[names[job["id"]]] = f"{kind} {' '.join(names[i] for i in ids.split(':'))}" if ids else None
    return found


def test_gate_waits_for_workers_however_they_end_and_workers_for_a_gate_that_passed(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    chain.submit(ledger, ask())
    assert edges(slurm) == {
        "source": None,
        "source.gate": "afterany source",
        "double": "afterok source.gate",
        "double.gate": "afterany double",
    }
    assert [(job["stage"], job["kind"], job["ids"]) for job in ledger.jobs(1)] == [
        ("toy.source", "workers", ["1"]),
        ("toy.source", "gate", ["2"]),
        ("toy.double", "workers", ["3"]),
        ("toy.double", "gate", ["4"]),
        ("toy.source", "released", []),
    ]


def test_all_jobs_are_held_until_the_chain_is_queued_and_the_first_workers_are_let_go_last(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    chain.submit(ledger, ask())
    assert all(job["held"] for job in slurm.jobs())
    assert [(call["name"], call["argv"][0]) for call in slurm.calls()][-2:] == [
        ("squeue", "--me"),
        ("scontrol", "release"),
    ]
    assert slurm.calls()[-1]["argv"] == ["release", "4,3,2,1"]


def test_the_chains_of_a_sweep_run_one_after_the_other(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path
) -> None:
    chain.submit(ledger, ask())
    other = toystages.new_ledger(tmp_path / "other")
    chain.submit(other, ask(), after=ledger)
    assert [job["dependency"] for job in slurm.jobs()[4:]] == ["afterany:4", "afterany:5", "afterok:6", "afterany:7"]
    assert slurm.calls()[-1]["argv"] == ["release", "8,7,6,5"]
    chain.submit(toystages.new_ledger(tmp_path / "third"), ask("toy.each"), after=other)
    assert slurm.jobs()[8]["dependency"] == "afterany:8" and slurm.jobs()[8]["held"]
    slurm.says("squeue", "8|RUNNING|0:01|n1|None|somebody else's job with that number\n")
    chain.submit(toystages.new_ledger(tmp_path / "fourth"), ask("toy.each"), after=other)
    assert slurm.jobs()[10]["dependency"] is None


def test_a_chain_waits_for_nothing_where_the_run_before_it_had_nothing_to_queue(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path
) -> None:
    chain.submit(toystages.new_ledger(tmp_path / "other"), ask("toy.source"), after=ledger)
    assert slurm.jobs()[0]["dependency"] is None and slurm.jobs()[0]["held"]


def test_large_stage_is_split_and_its_gate_waits_for_every_array(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    slurm.says("scontrol", "MaxArraySize = 3\n")
    chain.submit(ledger, ask("toy.source", workers=7, num_units=9, cluster={"array_parallelism": 2}))
    assert [job["flags"].get("array") for job in slurm.jobs()] == ["0-2%2", "0-2%2", None, None]
    assert slurm.jobs()[-1]["dependency"] == "afterany:1:2:3"
    pickles = sorted(p.name for p in (ledger.folder(1) / "jobs" / "toy.source").glob("*.pkl"))
    assert pickles == [
        "1_0_submitted.pkl",
        "1_1_submitted.pkl",
        "1_2_submitted.pkl",
        "2_0_submitted.pkl",
        "2_1_submitted.pkl",
        "2_2_submitted.pkl",
        "3_submitted.pkl",
    ]
    assert slurm.calls("scontrol")[-1]["argv"] == ["release", "4,3,2,1"]


def test_pickles_of_a_run_that_a_group_may_read_are_ours_alone(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    ledger.create({}, share=True)
    submission = chain.submit(ledger, ask())
    jobs = submission.folder / "jobs"
    assert {path.stat().st_mode & 0o077 for path in (jobs, *jobs.rglob("*"))} == {0}
    assert submission.plan_path("toy.source").stat().st_mode & 0o777 == 0o640


def test_pickle_holds_a_plan_path_and_an_index_only(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    from submitit.core.utils import DelayedSubmission

    from rag_hpc.launchers.array import run_worker

    chain.submit(ledger, ask())
    delayed = DelayedSubmission.load(ledger.folder(1) / "jobs" / "toy.source" / "1_3_submitted.pkl")
    assert delayed.args == (str(ledger.folder(1) / "toy.source.plan.json"), 3) and delayed.function is run_worker


def test_collective_stages_spread_over_nodes_while_there_are_enough(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    chain.submit(ledger, ask("toy.each", "toy.gather", workers=4))
    each, _, gather, _ = (job["flags"] for job in slurm.jobs())
    assert (each["nodes"], each["ntasks-per-node"], gather["nodes"], gather["ntasks"]) == ("4", "1", "4", "4")
    chain.submit(ledger, ask("toy.each", "toy.gather", workers=6, num_units=6))
    each, _, gather, _ = (job["flags"] for job in slurm.jobs()[4:])
    assert each["nodes"] == "4" and gather["ntasks"] == "6" and "nodes" not in gather


def test_lone_rank_is_a_plain_worker(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    chain.submit(ledger, ask("toy.gather", workers=1))
    assert "submitit.core._submit" in slurm.jobs()[0]["script"]
    assert "export RAG_HPC_LAUNCH=array\n" in slurm.jobs()[0]["script"]


def test_finished_stages_are_skipped(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    run_inline(ledger.submit(ask("toy.source")))
    chain.submit(ledger, ask())
    assert list(edges(slurm)) == ["double", "double.gate"]


def test_nothing_is_queued_when_all_is_finished(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    run_inline(ledger.submit(ask()))
    assert chain.submit(ledger, ask()).number == 2
    assert slurm.jobs() == [] and ledger.jobs(2) == []


@pytest.mark.parametrize("first_refused", [1, 2, 3, 4])
def test_refused_job_takes_the_whole_chain_with_it(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, first_refused: int
) -> None:
    slurm.says("refuse-sbatch", "sbatch: error: Batch job submission failed: Invalid qos specification")
    slurm.says("refuse-from", str(first_refused))
    with pytest.raises(ClusterError, match=r"Invalid qos specification.*set cluster\.qos"):
        chain.submit(ledger, ask())
    cancelled = [set(call["argv"]) - {"--quiet"} for call in slurm.calls("scancel")]
    assert cancelled == ([{str(i) for i in range(1, first_refused)}] if first_refused > 1 else [])
    assert not any(call["argv"][0] == "release" for call in slurm.calls("scontrol"))


def test_second_array_refused_cancels_the_first(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    slurm.says("scontrol", "MaxArraySize = 2\n")
    slurm.says("refuse-sbatch", "sbatch: error: QOSMaxSubmitJobPerUserLimit")
    slurm.says("refuse-from", "2")
    with pytest.raises(ClusterError, match="lower workers"):
        chain.submit(ledger, ask("toy.source"))
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "1"]]


def test_controller_that_restarts_is_waited_for(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    slurm.says("refuse-sbatch", "sbatch: error: Unable to contact slurm controller (connect failure)")
    slept: list[float] = []

    def back_again(seconds: float) -> None:
        slept.append(seconds)
        (slurm.folder / "refuse-sbatch").unlink()

    chain.submit(ledger, ask("toy.source"), slurm=Slurm(sleep=back_again))
    assert slept == [5.0] and len(slurm.jobs()) == 3


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ("fast", "partition 'fast' does not exist; known: cpu, gpu, old (closed)"),
        ("cpu,fast", "'fast' does not exist"),
        ("old", "'old' is closed"),
    ],
)
def test_partition_is_checked_before_anything_is_recorded(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, partition: str, said: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        chain.submit(ledger, ask(cluster={"partition": partition}))
    assert said in str(caught.value)
    assert slurm.jobs() == [] and ledger.submissions() == []


def test_jobs_left_by_the_submission_before_are_cancelled_in_one_call(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    chain.submit(ledger, ask())
    slurm.says(
        "squeue",
        "1_0|RUNNING|1:00|n1|None|rh-run-toy.source\n1_1|PENDING|0:00||Resources|rh-run-toy.source\n"
        "2|PENDING|0:00||Dependency|rh-run-toy.source.gate\n3|COMPLETED|0:05|n1|None|rh-run-toy.double\n"
        "4|RUNNING|0:05|n1|None|of somebody else|who got our number\n",
    )
    assert chain.submit(ledger, ask()).number == 2
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "1", "2"]]


def test_gate_that_resubmits_does_not_cancel_itself(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.submit(ledger, ask())
    slurm.says(
        "squeue", "2|RUNNING|0:01|n1|None|rh-run-toy.source.gate\n3|PENDING|0:00||Dependency|rh-run-toy.double\n"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    chain.submit(ledger, ask())
    assert [call["argv"] for call in slurm.calls("scancel")] == [["--quiet", "3"]]


def test_jobs_inherit_neither_an_enclosing_job_nor_secrets(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "keys"
    secrets.write_text("WANDB_API_KEY=hunter2\n")
    secrets.chmod(0o600)
    for name in (
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
        "SBATCH_ACCOUNT",
        "PMIX_RANK",
        "SQUEUE_FORMAT",
        "MASTER_PORT",
        "CUDA_VISIBLE_DEVICES",
        "RAG_HPC_LAUNCH",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("SLURM_CONF", "/etc/their/slurm.conf")
    monkeypatch.setenv("MY_DATA", "kept")
    chain.submit(ledger, ask("toy.source", "toy.each", cluster={"secrets_file": str(secrets)}))
    for job in slurm.jobs():
        assert "hunter2" not in str(job)
        assert job["env"]["MY_DATA"] == "kept" and job["env"]["SLURM_CONF"] == "/etc/their/slurm.conf"
    assert "hunter2" not in "".join(p.read_text(errors="replace") for p in ledger.run_dir.rglob("*") if p.is_file())
    assert os.environ["SLURM_JOB_ID"] == "hunter2"  # this process keeps its own


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_secrets_that_others_can_read_are_refused(
    ledger: Ledger,
    slurm: FakeSlurm,
    ask: Ask,
    tmp_path: Path,
    mode: int,
) -> None:
    secrets = tmp_path / "keys"
    secrets.write_text("A=1\n")
    secrets.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {secrets}"):
        chain.submit(ledger, ask(cluster={"secrets_file": str(secrets)}))
    with pytest.raises(ConfigError, match="No such file"):
        chain.submit(ledger, ask(cluster={"secrets_file": str(tmp_path / "none")}))


def test_run_under_tmp_is_refused(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "NODE_LOCAL", (tmp_path,))
    with pytest.raises(ConfigError, match=r"set cluster\.root"):
        chain.submit(ledger, ask())
    assert ledger.submissions() == []


def test_machine_without_slurm_is_told_so(
    ledger: Ledger, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"no sbatch.* on PATH.*cluster=local"):
        chain.submit(ledger, ask())


def test_fourteen_stages_are_queued_within_five_seconds(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    request = ask(*["toy.each", "toy.gather"], workers=4)
    jobs = chain.stage_jobs(ledger.submit(request), {"toy.each": 4, "toy.gather": 4}, None) * 7
    begun = sum(os.times()[:4])  # CPU seconds of this process and its commands
    chain.Chain(ledger.submission(), chain.cluster_of(request), Slurm()).lay_out(jobs)
    assert len(slurm.jobs()) == 28 and sum(os.times()[:4]) - begun < 5


def test_lines_say_what_waits_and_why_a_job_never_will_run(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    submission = chain.submit(ledger, ask())
    slurm.says(
        "squeue",
        "1_0|RUNNING|1:00|n1|None|x\n1_1|PENDING|0:00||Resources|x\n1_2|COMPLETED|0:00||None|x\n"
        "2|COMPLETED|0:01|n1|None|x\n3|PENDING|0:00||DependencyNeverSatisfied|x\n",
    )
    lines = chain.job_lines(submission)
    assert [(line["job"], line["stage"], line["kind"], line["state"]) for line in lines] == [
        ("1", "toy.source", "workers", "1 PENDING, 1 RUNNING"),
        ("3", "toy.double", "workers", "PENDING"),
    ]
    assert lines[0]["reason"] == "waiting in the queue (Resources): nothing to do" and lines[0]["outlook"] == ""
    assert "will never start" in lines[1]["reason"] and lines[1]["outlook"] == "never"
    asked = len(slurm.calls("squeue"))
    assert chain.job_lines(submission) == lines and len(slurm.calls("squeue")) == asked


def test_what_a_gate_has_said_counts_more_than_what_the_scheduler_said_last(
    ledger: Ledger, slurm: FakeSlurm, ask: Ask
) -> None:
    submission = chain.submit(ledger, ask())
    slurm.says("squeue", "".join(f"{i}|RUNNING|1:00|n1|None|x\n" for i in (1, 2, 3, 4)))
    assert len(chain.job_lines(submission)) == 4
    ledger.submission(1).outcome_path("toy.source").write_text('{"outcome": "passed"}')
    assert [line["job"] for line in chain.job_lines(submission)] == ["3", "4"]
    ledger.submission(1).outcome_path("toy.double").write_text('{"outcome": "stopped"}')
    assert chain.job_lines(submission) == []


def test_silent_scheduler_makes_jobs_unknown_not_gone(ledger: Ledger, slurm: FakeSlurm, ask: Ask) -> None:
    submission = chain.submit(ledger, ask("toy.source"))
    slurm.says("refuse-squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert {line["state"] for line in chain.job_lines(submission)} == {"UNKNOWN"}
