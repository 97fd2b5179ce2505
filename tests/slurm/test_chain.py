"""Chains on a real Slurm of four nodes: toy stages that misbehave on demand, and the pipeline itself."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts import second_account
from toystages import new_ledger, run_inline, stage_bytes, toy_request

from rag_hpc import cli
from rag_hpc.core.commit import UNITS, committed, drafts, read_record
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import plan_path, read_plan
from rag_hpc.errors import ClusterError
from rag_hpc.launchers import cancel, chain, ports, watch
from rag_hpc.schema import to_plain
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.client import NoPlaces, Slurm, connect
from rag_hpc.slurm.cluster import ClusterConfig, Launcher, StageResources
from rag_hpc.slurm.devcluster.config import address
from rag_hpc.slurm.devcluster.processes import find, kill, wait_for
from rag_hpc.slurm.states import SACCT_FORMAT, State, parse_sacct, parse_scontrol

TESTS = Path(__file__).parents[1]
LIBMPI = Path("/usr/lib/x86_64-linux-gnu/libmpi.so.40")
pytestmark = pytest.mark.timeout(600)  # what waits in vain says so before
Ask = Callable[..., Request]
Sh = Callable[..., str]


@pytest.fixture
def run(slurm_env: dc.DevCluster, toys: dict[str, str], shared_tmp: Path) -> Ledger:
    """Return the ledger of a run that all nodes see; no job imports a module that lies in its folder."""
    ledger = new_ledger(shared_tmp / "run")
    for module in ("dataclasses", "submitit", "numpy"):
        path = ledger.run_dir / f"{module}.py"
        path.write_text("raise SystemExit('imported from the working folder')\n")
        path.chmod(0o600)
    return ledger


@pytest.fixture
def ask(slurm_env: dc.DevCluster, shared_tmp: Path) -> Ask:
    """Return a function that makes a request of toy stages; `cluster` holds ClusterConfig's settings."""
    trouble = shared_tmp / "trouble"
    trouble.mkdir()

    def make(*stages: str, workers: int = 4, cluster: dict[str, Any] | None = None, **more: Any) -> Request:
        conf = str(slurm_env.slurm_conf)
        given = {"partition": "cpu", "time_min": 10, "interface": "eth0", "slurm_conf": conf, **(cluster or {})}
        places = f"{TESTS / 'slurm' / 'toysite'}:{TESTS / 'support'}"
        lines = [f"export PYTHONPATH={places}", "export MPI4PY_LIBMPI=libmpi.so.40"]
        site = ClusterConfig(name="test", launcher=Launcher.slurm, prologue=lines, **given)
        request = toy_request("run", stages or ("toy.source", "toy.double"), workers, trouble=str(trouble), **more)
        return dataclasses.replace(request, cluster=to_plain(site), python=sys.executable)

    return make


def finish(ledger: Ledger, timeout_s: float = 300) -> int:
    """Follow the run to its end; return watch's exit code."""
    end = time.monotonic() + timeout_s

    def sleep(seconds: float) -> None:
        assert time.monotonic() < end, f"{ledger.jobs()}\n{gate_logs(ledger)}"
        time.sleep(min(seconds, 0.2))

    return watch.watch(ledger, sleep=sleep)


def gate_logs(ledger: Ledger) -> str:
    return "".join(path.read_text() for path in sorted(ledger.run_dir.glob("submissions/*/gates.log")))


def outcome(ledger: Ledger, number: int, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ledger.submission(number).outcome_path(stage).read_text())
    return found


def stage_dir(ledger: Ledger, stage: str) -> Path:
    return ledger.run_dir / read_plan(plan_path(ledger.run_dir, ledger.request().number, stage)).folder


def same_bytes_as_inline(ledger: Ledger, tmp_path: Path) -> None:
    """Compare every stage with the same stages run by one worker in this process."""
    other, request = new_ledger(tmp_path / ledger.name), ledger.request()
    calm = {stage: {**values, "trouble": "", "max_ms": 0} for stage, values in request.settings.items()}
    run_inline(other.submit(dataclasses.replace(request, settings=calm)))
    for stage in request.stages:
        found, expected = stage_bytes(stage_dir(ledger, stage)), stage_bytes(stage_dir(other, stage))
        for files in (found, expected):
            files[MANIFEST] = json.dumps({**json.loads(files[MANIFEST]), "config": None}).encode()
        assert found == expected


def test_runs_of_a_sweep_do_not_overlap(run: Ledger, ask: Ask, shared_tmp: Path) -> None:
    second = new_ledger(shared_tmp / "second")
    chain.submit(run, ask(workers=1, max_ms=400))
    chain.submit(second, dataclasses.replace(ask_again(run), run="second", workers=4), after=run)
    assert (finish(run), finish(second)) == (0, 0)
    ended = max(record["ended_unix"] for record in records(run))
    assert ended < min(record["started_unix"] for record in records(second))
    assert {record["p"] for record in records(second)} == {4}


def ask_again(ledger: Ledger) -> Request:
    """Return the run's request without its number."""
    return dataclasses.replace(ledger.request(), number=0, submitted_unix=0.0)


def records(ledger: Ledger) -> list[dict[str, Any]]:
    return [
        read_record(folder)
        for stage in ledger.request().stages
        for folder in sorted((stage_dir(ledger, stage) / UNITS).glob("unit-*"))
    ]


def test_chain_of_arrays_gives_the_bytes_of_one_worker(run: Ledger, ask: Ask, sh: Sh, tmp_path: Path) -> None:
    begun = busy_s()
    chain.submit(run, ask(num_units=9, max_ms=200))
    assert busy_s() - begun < 5
    assert finish(run) == 0
    same_bytes_as_inline(run, tmp_path)
    log = (run.folder(1) / "toy.source.log").read_text()
    workers = re.findall(r"@(n[1-4]) INFO toy\.source: worker (\d), rank 0 of 1", log)  # also one that found no unit
    assert {index for _, index in workers} == set("0123") and len({host for host, _ in workers}) > 1
    wait_for(lambda: sh("squeue", "-h") == "", "the last gate to be gone", timeout_s=60)


def busy_s() -> float:
    """Return the CPU seconds of this process and of the commands it ran: other work on the machine adds no more."""
    return sum(os.times()[:4])


def test_nothing_but_few_small_files_is_left(run: Ledger, ask: Ask) -> None:
    chain.submit(run, ask(num_units=12, workers=8))
    assert finish(run) == 0
    wait_for(lambda: run.submission(1).outcome_path("toy.double").exists(), "the last gate", timeout_s=60)
    entries = list(run.run_dir.rglob("*"))
    units = [p for p in entries if UNITS in p.parts and p.name != UNITS]
    assert len(units) == 2 * 12 * 4  # each a folder of two files and a record
    assert len(entries) - len(units) <= 2 * 20
    assert not list(run.run_dir.rglob("*.pkl")) and not list(run.run_dir.rglob("*.out"))
    packed = (run.folder(1) / "toy.source.log").read_text()
    assert packed.count("==> ") == 8 and "toy.source unit-00011 committed" in packed
    assert all(p.stat().st_mode & 0o077 == 0 for p in entries), [p for p in entries if p.stat().st_mode & 0o077]


def test_queue_time_of_a_later_stage_begins_with_its_plan(run: Ledger, ask: Ask) -> None:
    chain.submit(run, ask(max_ms=3000, num_units=4))
    assert finish(run) == 0
    found = [read_record(p) for p in (stage_dir(run, "toy.double") / UNITS).iterdir()]
    earlier = [read_record(p)["ended_unix"] for p in (stage_dir(run, "toy.source") / UNITS).iterdir()]
    for one in found:
        waited_since = one["started_unix"] - one["setup_s"] - one["queue_s"]
        assert waited_since >= max(earlier) - 0.5


def test_failing_unit_stops_the_chain_and_leaves_no_dead_dependency(
    run: Ledger, ask: Ask, sh: Sh, shared_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shared_tmp / "trouble" / "unit-00002").write_text("fail")
    chain.submit(run, ask("toy.source", "toy.double", max_attempts=2))
    assert finish(run) == 1
    assert "no luck with unit-00002" in capsys.readouterr().err
    wait_for(lambda: sh("squeue", "-h") == "", "the chain to be cleared", timeout_s=60)
    assert outcome(run, 1, "toy.source")["cause"] == "UnitFailed"
    assert committed(stage_dir(run, "toy.source") / UNITS) == {0, 1, 3, 4}


def test_killed_workers_are_made_up_for_by_a_resubmission(
    run: Ledger, ask: Ask, shared_tmp: Path, tmp_path: Path
) -> None:
    for index in range(5):
        (shared_tmp / "trouble" / f"unit-{index:05d}").write_text("kill-once")
    chain.submit(run, ask(workers=2, backup_after_s=2.0))
    assert finish(run) == 0
    assert run.submissions()[:2] == [1, 2] and outcome(run, 1, "toy.source")["outcome"] == "resubmitted"
    same_bytes_as_inline(run, tmp_path)


def test_worker_that_cannot_start_stops_the_chain_at_once(run: Ledger, ask: Ask, sh: Sh) -> None:
    request = ask()
    # the toy stages are no longer known to workers
    cluster = {**request.cluster, "prologue": [f"export PYTHONPATH={TESTS / 'support'}"]}
    chain.submit(run, dataclasses.replace(request, cluster=cluster))
    wait_for(run.submission(1).outcome_path("toy.source").exists, "the gate", timeout_s=120)
    wait_for(lambda: sh("squeue", "-h") == "", "the chain to be cleared", timeout_s=60, step_s=0.3)
    assert run.submissions() == [1] and outcome(run, 1, "toy.source")["outcome"] == "stopped"


def test_preempted_stage_goes_on_where_it_stood(
    run: Ledger, ask: Ask, sh: Sh, shared_tmp: Path, tmp_path: Path
) -> None:
    note = shared_tmp / "trouble" / "unit-00015"
    note.write_text("wait")  # so that the stage is not done before
    chain.submit(
        run, ask("toy.source", num_units=16, max_ms=2500, backup_after_s=1000.0, cluster={"partition": "preempt"})
    )
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: len(committed(units)) >= 3, "some units", timeout_s=120)
    before = committed(units)
    sh("sbatch", "-p", "cpu", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    wait_for(
        lambda: (
            "Restarts=1" in sh("scontrol", "show", "job", run.jobs(1)[0]["ids"][0])
            or run.submission(1).outcome_path("toy.source").exists()
        ),
        "the requeue",
        timeout_s=150,
        step_s=0.3,
    )
    note.unlink()
    for line in sh("squeue", "-h", "-r", "-t", "PD", "-o", "%i").split():
        subprocess.run(["scontrol", "update", f"JobId={line}", "StartTime=now"], check=False)
    assert finish(run) == 0
    assert before <= committed(units) and drafts(units) == {}
    restarts = {read_record(p)["restarts"] for p in units.iterdir()}
    assert len(run.submissions()) > 1 or max(restarts) > 0
    same_bytes_as_inline(run, tmp_path)


def test_walltime_ends_a_worker_in_time_and_the_rest_is_resubmitted(run: Ledger, ask: Ask, shared_tmp: Path) -> None:
    note = shared_tmp / "trouble" / "unit-00003"
    note.write_text("wait")  # for the walltime of whoever takes the unit
    # Slurm looks each half minute, and sends its signal up to that much too early: at once, with the usual margin
    chain.submit(run, ask("toy.source", cluster={"time_min": 1, "walltime_margin_s": 12}))
    wait_for(lambda: run.submissions() == [1, 2], "the gate to resubmit", timeout_s=300)
    note.unlink()
    assert finish(run) == 0
    found = outcome(run, 1, "toy.source")
    assert (found["outcome"], found["cause"]) == ("resubmitted", "STOPPED") and run.submissions() == [1, 2]
    submissions = [read_record(p)["submission"] for p in sorted((stage_dir(run, "toy.source") / UNITS).iterdir())]
    assert submissions == [1, 1, 1, 2, 1]


def test_dead_node_costs_its_open_units_only(run: Ledger, ask: Ask, faulty: dc.DevCluster, tmp_path: Path) -> None:
    chain.submit(run, ask("toy.source", num_units=24, max_ms=4000, workers=8, backup_after_s=3.0))
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: len(committed(units)) >= 4, "some units", timeout_s=120)
    faulty.kill_slurmd("n1", steps=True)
    wait_for(lambda: len(committed(units)) == 24, "the others to do the dead node's units", timeout_s=120)
    faulty.start_slurmd("n1")
    assert finish(run) == 0
    same_bytes_as_inline(run, tmp_path)


def test_chain_outlives_its_controller(
    run: Ledger, ask: Ask, faulty: dc.DevCluster, shared_tmp: Path, tmp_path: Path
) -> None:
    note = shared_tmp / "trouble" / "unit-00007"
    note.write_text("wait")  # for the controller's end
    chain.submit(run, ask(num_units=8, max_ms=500, backup_after_s=1000.0))
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: len(committed(units)) >= 2, "some units", timeout_s=120)
    faulty.kill_slurmctld()
    note.unlink()
    wait_for(lambda: len(committed(units)) == 8, "the workers to go on", timeout_s=120)
    assert {line["state"] for line in chain.job_lines(run.submission())} == {"UNKNOWN"}
    faulty.start_slurmctld()
    assert finish(run) == 0
    same_bytes_as_inline(run, tmp_path)


def test_cancelled_run_stops_and_a_later_submission_finishes_it(
    run: Ledger, ask: Ask, sh: Sh, shared_tmp: Path
) -> None:
    (shared_tmp / "trouble" / "unit-00001").write_text("hang")
    chain.submit(run, ask(num_units=4))
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: committed(units) == {0, 2, 3}, "the units that do not hang", timeout_s=120)
    assert cancel.cancel_run(run).startswith("cancelled 4 jobs")
    assert finish(run) == 3
    wait_for(lambda: sh("squeue", "-h") == "", "the queue to be empty", timeout_s=60)
    shutil.rmtree(shared_tmp / "trouble")
    chain.submit(run, dataclasses.replace(run.request(), resubmits=0))
    assert finish(run) == 0


def test_new_submission_takes_the_place_of_a_chain_at_work(run: Ledger, ask: Ask, sh: Sh, shared_tmp: Path) -> None:
    note = shared_tmp / "trouble" / "unit-00001"
    note.write_text("wait")  # whoever takes the unit: when its worker is cancelled another one may still be there
    chain.submit(run, ask(num_units=4, backup_after_s=1000.0))
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: committed(units) == {0, 2, 3} and drafts(units), "one unit to be left", timeout_s=120)
    chain.submit(run, dataclasses.replace(run.request(), workers=2))
    first = {i for job in run.jobs(1) for i in job["ids"]}
    wait_for(lambda: not first & set(sh("squeue", "-h", "-o", "%F").split()), "the first chain's end", timeout_s=60)
    note.unlink()
    assert finish(run) == 0
    assert {read_record(p)["submission"] for p in units.iterdir()} == {1, 2}


def test_hostile_run_folder_is_only_a_name(
    slurm_env: dc.DevCluster, toys: dict[str, str], ask: Ask, shared_tmp: Path
) -> None:
    ledger = new_ledger(shared_tmp / "a'; touch foo" / "my run")
    chain.submit(ledger, ask("toy.source", "toy.gather", workers=2))
    assert finish(ledger) == 0
    assert not list(shared_tmp.rglob("foo"))


def test_refused_chain_leaves_the_queue_empty(run: Ledger, ask: Ask, sh: Sh) -> None:
    with pytest.raises(Exception, match="not available"):
        chain.submit(run, ask(cluster={"cpus_per_task": 99}))
    with pytest.raises(Exception, match="partition 'x' does not exist; known: cpu, gpu, preempt"):
        chain.submit(run, ask(cluster={"partition": "x"}))
    assert sh("squeue", "-h") == ""


def test_ranks_of_mpi_and_torchrun_meet_on_four_hosts(run: Ledger, ask: Ask, tmp_path: Path) -> None:
    if not LIBMPI.exists():
        pytest.skip(f"{LIBMPI} is absent: apt-get install openmpi-bin")
    chain.submit(run, ask("toy.gather", "toy.each", num_units=8, max_ms=500))
    assert finish(run) == 0, gate_logs(run)
    assert run.submissions() == [1], gate_logs(run)
    gathered = {read_record(p)["p"] for p in (stage_dir(run, "toy.gather") / UNITS).iterdir()}
    each = [read_record(p) for p in (stage_dir(run, "toy.each") / UNITS).iterdir()]
    assert gathered == {4} and {r["p"] for r in each} == {4} and {r["launch"] for r in each} == {"torchrun"}
    assert len({r["host"] for r in each}) > 1
    same_bytes_as_inline(run, tmp_path)


def test_dead_rank_ends_its_job_and_the_stage_is_tried_again(run: Ledger, ask: Ask, shared_tmp: Path) -> None:
    if not LIBMPI.exists():
        pytest.skip(f"{LIBMPI} is absent: apt-get install openmpi-bin")
    (shared_tmp / "trouble" / "unit-00001").write_text("kill-once")
    chain.submit(run, ask("toy.gather", num_units=3))
    assert finish(run) == 0, gate_logs(run)
    assert run.submissions()[:2] == [1, 2], gate_logs(run)  # on a busy machine MPI may need a third start


WRITE_A_PICKLE = """
import base64, os, pickle, socket, struct, sys
host, port, job, path = sys.argv[1:]
class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {path}",)
def text(data):
    return struct.pack("<Q", len(data)) + data
bomb, key = pickle.dumps(Bomb()), text(b"/torch.rendezvous." + job.encode())
with socket.create_connection((host, int(port)), timeout=5) as stream:
    stream.sendall(bomb)
with socket.create_connection((host, int(port)), timeout=5) as stream:
    stream.sendall(struct.pack("<BI", 0, 0x3C85F7CE))  # the store's greeting, then: set, and get
    stream.sendall(b"\\x01" + key + text(base64.b64encode(bomb)) + b"\\x03" + key)
    print(base64.b64decode(stream.recv(9999)[8:]) == bomb)
"""


def test_stranger_who_writes_a_pickle_into_torchruns_store_runs_nothing(
    run: Ledger, ask: Ask, slurm_env: dc.DevCluster, shared_tmp: Path, tmp_path: Path, sh: Sh
) -> None:
    """A rendezvous by c10d keeps a pickle under a known name in its store, and its nodes read it again every 5 s."""
    note = shared_tmp / "trouble" / "unit-00001"
    note.write_text("wait")
    chain.submit(run, ask("toy.each", workers=2, num_units=4, backup_after_s=1000.0))
    units = stage_dir(run, "toy.each") / UNITS
    wait_for(lambda: committed(units) == {0, 2, 3}, "the units that do not wait", timeout_s=180)
    [job] = run.jobs(1)[0]["ids"]
    head = sh("squeue", "-h", "-j", job, "-o", "%B").strip()
    listening = slurm_env.run_on(head, ["ss", "-Hltn"]).stdout.splitlines()
    numbers = {int(line.split()[3].rpartition(":")[2]) for line in listening}
    [port] = [number for number in numbers if ports.FIRST <= number < ports.ephemeral_start() and number != 26818]
    with second_account() as other:
        bomb = ["/usr/bin/env", "python3", "-c", WRITE_A_PICKLE, address(head), str(port), job, str(shared_tmp / "ran")]
        done = other.run(bomb)
    assert done.stdout == "True\n", done.stderr
    time.sleep(8)
    note.unlink()
    assert finish(run) == 0, gate_logs(run)
    assert not (shared_tmp / "ran").exists()
    same_bytes_as_inline(run, tmp_path)


def test_controller_and_accounting_tell_the_same_of_workers_that_were_killed(sh: Sh, shared_tmp: Path) -> None:
    ways = ["kill -9 $$", "kill -INT $$", "exit 2", "exit 9"]
    jobs = [
        sh("sbatch", "--parsable", "-o", "/dev/null", "-D", "/", "--wrap", f"srun sh -c '{way}'").strip()
        for way in ways
    ]
    found: dict[str, tuple[int | None, int]] = {}

    def told(text: dict[str, State]) -> bool:
        found.update({job: (text[job].exit_code, text[job].signal) for job in jobs if job in text and text[job].ended})
        return set(found) == set(jobs)

    wait_for(lambda: told(parse_scontrol(sh("scontrol", "-o", "show", "job"))), "the jobs", timeout_s=60, step_s=0.3)
    controller = dict(found)
    assert [controller[job] for job in jobs] == [(0, 9), (0, 2), (2, 0), (9, 0)]
    found.clear()
    ask = ("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", SACCT_FORMAT)
    wait_for(lambda: told(parse_sacct(sh(*ask))), "accounting to know them", timeout_s=90, step_s=0.5)
    for job in jobs:
        code, signal = controller[job]
        # in two of nine runs accounting had not kept how a step ended: a signal is then told as an exit of its number
        assert found[job] in ((code, signal), (signal or code, 0))


def test_chain_whose_gate_was_preempted_leaves_no_job_and_the_watch_says_so(
    run: Ledger, ask: Ask, sh: Sh, shared_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shared_tmp / "trouble" / "unit-00001").write_text("wait")
    chain.submit(run, ask(num_units=2, workers=1))
    gate = run.jobs(1)[1]["ids"][0]
    told = sh("scontrol", "-o", "show", "job", gate)
    assert "Requeue=1" in told and "KillOInInvalidDependent=Yes" in sh(
        "scontrol", "show", "job", run.jobs(1)[2]["ids"][0]
    )
    sh("scancel", gate)  # as PreemptMode=CANCEL does
    assert finish(run) == 3
    assert "toy.source: its gate was preempted, cancelled or lost its node before it decided" in capsys.readouterr().err
    wait_for(lambda: "toy.double" not in sh("squeue", "-h", "-o", "%j"), "the chain to be cleared", timeout_s=60)


def test_job_that_can_never_start_is_refused_or_said_to_be_one(
    run: Ledger, ask: Ask, sh: Sh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClusterError, match=r"no node has cluster\.gres=gpu:9; known: gpu:2"):
        chain.submit(run, ask("toy.each", cluster={"gres": "gpu:9"}))
    sh("scontrol", "update", "PartitionName=cpu", "MaxTime=5")
    try:
        with pytest.raises(ClusterError, match=r"cluster\.time_min=10 is over the limit of 5 minutes"):
            chain.submit(run, ask())
        assert sh("squeue", "-h") == ""
        monkeypatch.setattr(chain, "check_offers", lambda *given: None)  # the limit was lowered after the submit
        chain.submit(run, ask())
        wait_for(lambda: "PartitionTimeLimit" in sh("squeue", "-h", "-o", "%r"), "the reason", timeout_s=60)
        assert cli.main(["why", f"run={run.run_dir}"]) == 3
        said = capsys.readouterr().out
        assert "will never start: its walltime is over the limit (PartitionTimeLimit); set cluster.time_min" in said
        assert "retry" not in said
    finally:
        sh("scontrol", "update", "PartitionName=cpu", "MaxTime=UNLIMITED")


def test_each_job_asks_for_what_its_stage_and_the_site_s_flags_say(run: Ledger, ask: Ask, sh: Sh) -> None:
    own = {"toy.each": StageResources(gres="gpu:1", time_min=7)}
    flags = {"comment": "my thesis", "mail-type": "FAIL"}
    chain.submit(run, ask("toy.source", "toy.each", workers=2, cluster={"stages": own, "sbatch": flags}))
    shown = {
        (job["stage"], job["kind"]): sh("scontrol", "-o", "show", "job", job["ids"][0])
        for job in run.jobs(1)
        if job["kind"] != "released"
    }
    assert len(shown) == 4
    for (stage, kind), text in shown.items():
        mine = (stage, kind) == ("toy.each", "workers")
        assert bool(re.search(r"TresPerNode=gres[:/]gpu:1\b", text)) == ("gpu" in text) == mine
        assert f"TimeLimit=00:{'07' if mine else '10'}:00" in text
        assert "Comment=my thesis" in text and "MailType=FAIL" in text
    assert finish(run) == 0


def test_stopped_worker_does_not_hold_a_stage_whose_units_are_all_committed(
    run: Ledger, ask: Ask, shared_tmp: Path, tmp_path: Path
) -> None:
    note = shared_tmp / "trouble" / "unit-00001"
    note.write_text("wait")
    chain.submit(run, ask("toy.source", num_units=6, workers=3, backup_after_s=2.0))
    units = stage_dir(run, "toy.source") / UNITS
    wait_for(lambda: 1 in drafts(units).values(), "the unit to be begun", timeout_s=120)
    draft = next(name for name, index in drafts(units).items() if index == 1)  # a backup may have begun, too
    os.kill(int(draft.rpartition("-")[2]), signal.SIGSTOP)  # nodes share the machine's process ids
    note.unlink()
    assert finish(run, timeout_s=120) == 0, gate_logs(run)
    same_bytes_as_inline(run, tmp_path)


def test_run_without_accounting_on_whole_nodes_and_up_brings_accounting_back(
    run: Ledger, ask: Ask, faulty: dc.DevCluster, sh: Sh, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(pid for name in ("slurmdbd", "mariadbd") if (pid := find(faulty._config, name)))
    monkeypatch.setenv("RAG_HPC_DEVCLUSTER", str(faulty.state))
    assert dc.status()["up"] and connect("devcluster").check_partition("cpu") == 4
    chain.submit(run, ask("toy.source", workers=2, cluster={"mem_gib": 0}))
    asked = sh("scontrol", "-o", "show", "job", run.jobs(1)[0]["ids"][0])
    assert "MinMemoryNode=0" in asked and finish(run) == 0
    before = find(faulty._config, "slurmctld")
    dc.up(faulty.state)
    assert sh("sacct", "-n", "-X", "-S", "now-1hours", "-o", "jobid") is not None
    assert find(faulty._config, "slurmctld") == before


def test_pipeline_on_slurm_equals_the_pipeline_here(slurm_env: dc.DevCluster, shared_tmp: Path) -> None:
    texts = shared_tmp / "texts"
    texts.mkdir()
    for number in range(40):
        words = " ".join(f"w{(number % 13) * 31 + i * (number % 5 + 1)}" for i in range(200))
        (texts / f"doc{number:02d}.txt").write_text(f"Title {number}\n\n{words}.\n")
    common = [
        "corpus=files",
        f"corpus.path={texts}",
        "corpus.pages_per_unit=8",
        "workers=4",
        "pipeline.stages=[crawl,clean,dedup.sign,dedup.group,dedup.verify,dedup.link,dedup.drop]",
    ]
    hashes = []
    for name, more in (
        ("here", []),
        ("there", ["cluster=devcluster", f"cluster.slurm_conf={slurm_env.slurm_conf}", "--watch"]),
    ):
        command = [sys.executable, "-m", "rag_hpc.cli", "run", f"run={name}", *common, *more]
        done = subprocess.run(command, cwd=shared_tmp, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        manifests = (shared_tmp / "results" / "runs" / name).glob("*/manifest.json")
        hashes.append({p.parent.name: json.loads(p.read_text())["output_hash"] for p in manifests})
    assert hashes[0] == hashes[1] and len(hashes[0]) == 7


@pytest.fixture
def few_places(faulty: dc.DevCluster, sh: Sh) -> Iterator[None]:
    """Let us have four jobs in the queue at a time."""
    text = faulty.slurm_conf.read_text()
    for limit, conf in ((4, f"{text}AccountingStorageEnforce=limits\n"), (-1, text)):
        sh("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={limit}")
        faulty.slurm_conf.write_text(conf)
        faulty.kill_slurmctld()
        faulty.start_slurmctld()
        if limit == 4:
            yield


@pytest.mark.usefixtures("few_places")
def test_submit_waits_for_munge_and_makes_do_with_few_places(
    run: Ledger, ask: Ask, faulty: dc.DevCluster, sh: Sh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    socket = faulty.state / "munge" / "munge.socket"
    away = socket.rename(socket.with_name("away"))
    slurm = Slurm(slurm_conf=str(faulty.slurm_conf), sleep=lambda seconds: away.replace(socket) and None)
    chain.submit(run, ask("toy.source", "toy.double", "toy.each", workers=1), slurm=slurm)
    assert "trying for another 60 s" in caplog.text and "room for 2 of 3 stages" in caplog.text
    assert finish(run) == 0
    assert [job["stages"] for job in run.jobs(1) if job["kind"] == "released"] == [
        ["toy.source", "toy.double"],
        ["toy.each"],
    ]
    same_bytes_as_inline(run, tmp_path)
    wait_for(lambda: sh("squeue", "-h") == "", "the last gate to be gone", timeout_s=60)
    with pytest.raises(NoPlaces, match=r"At least 6 places are needed.*lower workers"):
        chain.submit(new_ledger(run.run_dir.parent / "wide"), dataclasses.replace(ask_again(run), workers=4))
    assert sh("squeue", "-h") == ""
