from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toystages

from rag_hpc.core import commit
from rag_hpc.core.comm import check_world_size
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError, Interrupted
from rag_hpc.launchers import local

pytestmark = pytest.mark.timeout(600)  # what waits in vain says so before
Command = Callable[..., list[str]]


def run(command: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def outputs(run_dir: Path) -> dict[str, dict[str, bytes]]:
    return {path.name: toystages.stage_bytes(path) for path in run_dir.glob("toy.*-*")}


def hang(tmp_path: Path, unit: str, what: str = "hang") -> str:
    (tmp_path / "trouble").mkdir(exist_ok=True)
    (tmp_path / "trouble" / unit).write_text(what)
    return str(tmp_path / "trouble")


def wait_for(condition: Callable[[], bool], limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def workers_of(run_dir: Path) -> list[int]:
    return [pid for job in Ledger(run_dir).jobs() for pid in job["pids"]]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_any_number_of_workers_gives_the_same_bytes(toy_run: Command, tmp_path: Path) -> None:
    for p in (1, 2, 7):
        done = run(toy_run(tmp_path / f"p{p}" / "run", workers=p, max_ms=20, num_units=9))
        assert done.returncode == 0, done.stderr
    first = outputs(tmp_path / "p1" / "run")
    assert len(first) == 2
    assert outputs(tmp_path / "p2" / "run") == first == outputs(tmp_path / "p7" / "run")
    records = [commit.read_record(p) for p in (tmp_path / "p7").glob("run/toy.double-*/units/*")]
    assert {record["p"] for record in records} == {7}


def test_more_workers_than_units_are_not_started(toy_run: Command, tmp_path: Path) -> None:
    assert run(toy_run(tmp_path / "run", workers=6, num_units=2)).returncode == 0
    assert [len(job["pids"]) for job in Ledger(tmp_path / "run").jobs()] == [2, 2]
    records = [commit.read_record(p) for p in tmp_path.glob("run/toy.*-*/units/*")]
    assert {record["p"] for record in records} == {2}


@pytest.mark.parametrize("ranks", [1, 3])
def test_collective_and_torchrun_stages_give_the_same_for_any_number_of_ranks(
    toy_run: Command, tmp_path: Path, ranks: int
) -> None:
    done = run(toy_run(tmp_path / "run", stages=["toy.gather", "toy.each"], workers=ranks, num_units=4))
    assert done.returncode == 0, done.stderr
    inline = toystages.new_ledger(tmp_path / "inline")
    request = toystages.toy_request("inline", ("toy.gather", "toy.each"), workers=1, num_units=4)
    toystages.run_inline(inline.submit(request))
    assert outputs(tmp_path / "run") == outputs(inline.run_dir)


def test_rank_that_fails_in_a_collective_does_not_hang_the_others(toy_run: Command, tmp_path: Path) -> None:
    if local.find_mpirun() is None:
        pytest.skip("no mpirun, or no mpi4py, on this machine")
    (tmp_path / "unit-00001").write_text("fail-once")
    values = {"stages": ["toy.gather"], "workers": 3, "trouble": str(tmp_path)}
    first = run(toy_run(tmp_path / "run", **values))
    assert first.returncode == 3 and "workers ended with units left (exit codes [1])" in first.stderr
    assert run(toy_run(tmp_path / "run", **values)).returncode == 0


def test_what_a_killed_mpirun_left_behind_does_not_keep_the_next_one_from_starting(
    toy_run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local.find_mpirun() is None:
        pytest.skip("no mpirun, or no mpi4py, on this machine")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for pid in range(os.getpid() + 1, os.getpid() + 1000):  # mpirun calls its folder by its process id
        (tmp_path / f"ompi.{pid}").mkdir()
        (tmp_path / f"ompi.{pid}" / "pmix.vm.tool").touch()
    before = sorted(tmp_path.iterdir())
    done = run(toy_run(tmp_path / "run", stages=["toy.gather"], workers=2))
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "run"]


def test_torch_rank_with_a_failed_unit_lets_the_others_finish(toy_run: Command, tmp_path: Path) -> None:
    (tmp_path / "unit-00000").write_text("fail")
    done = run(toy_run(tmp_path / "run", stages=["toy.each"], workers=2, trouble=str(tmp_path), max_ms=300))
    assert (done.returncode, done.stderr.split(":")[0]) == (1, "UnitFailed"), done.stderr
    assert {p.name for p in tmp_path.glob("run/toy.each-*/units/*")} == {f"unit-0000{i}" for i in range(1, 5)}


def test_failing_unit_ends_in_unit_failed_and_is_retried_when_forgiven(toy_run: Command, tmp_path: Path) -> None:
    (tmp_path / "unit-00003").write_text("fail")
    command = toy_run(tmp_path / "run", workers=2, trouble=str(tmp_path))
    done = run(command)
    assert done.returncode == 1
    assert "UnitFailed: toy.source: 1 of 5 units failed 3 times (unit-00003); the first: ValueError" in done.stderr
    assert len(list(tmp_path.glob("run/toy.source-*/units/unit-*"))) == 4
    (tmp_path / "unit-00003").unlink()
    from rag_hpc.core.failures import forgive

    assert forgive(next(tmp_path.glob("run/toy.source-*"))) >= 3
    assert run(command).returncode == 0


def test_worker_that_is_killed_costs_its_unit_only(toy_run: Command, tmp_path: Path) -> None:
    (tmp_path / "unit-00002").write_text("kill-once")
    done = run(toy_run(tmp_path / "run", workers=2, trouble=str(tmp_path), backup_after_s=0.2))
    assert done.returncode == 0, done.stderr
    golden = toystages.new_ledger(tmp_path / "golden")
    toystages.run_inline(golden.submit(toystages.toy_request("golden")))
    assert outputs(tmp_path / "run") == outputs(golden.run_dir)


def test_all_workers_killed_is_incomplete_and_says_how_to_go_on(toy_run: Command, tmp_path: Path) -> None:
    (tmp_path / "unit-00002").write_text("kill-once")
    command = toy_run(tmp_path / "run", workers=1, trouble=str(tmp_path))
    done = run(command)
    assert done.returncode == 3
    here = tmp_path / "run"  # not in results/runs, so that its name alone would not be found
    assert f"units left (exit codes [-9]); see: rag-hpc why run={here}, go on: rag-hpc retry run={here}" in done.stderr
    assert run(command).returncode == 0


@pytest.mark.timeout(120)  # it would hold it for ever
def test_a_sleeping_worker_does_not_hold_a_run_whose_units_are_all_done(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: the others back up its unit, and it never ends by itself."""
    asleep = list[int]()

    def put_to_sleep(plan: Plan) -> None:
        drafts = commit.drafts(ledger.run_dir / plan.folder / commit.UNITS)
        if not asleep and 0 in drafts.values():
            name = next(name for name, index in drafts.items() if index == 0)  # a backup may have begun, too
            asleep.append(int(name.rpartition("-")[2]))
            os.kill(asleep[0], signal.SIGSTOP)
            (tmp_path / "trouble" / "unit-00000").unlink()

    monkeypatch.setattr(local, "worker_commands", toystages.worker_commands)
    monkeypatch.setattr(local, "GRACE_S", 0.5)
    request = toystages.toy_request(
        "run", ("toy.source",), workers=2, trouble=hang(tmp_path, "unit-00000", "wait"), backup_after_s=0.2
    )
    assert local.run_all(ledger.submit(request), on_poll=put_to_sleep) == ["toy.source"]
    assert asleep and not is_running(asleep[0])


def test_a_launcher_says_which_submission_took_its_run_over(toy_run: Command, tmp_path: Path) -> None:
    command = toy_run(tmp_path / "run", workers=2, trouble=hang(tmp_path, "unit-00004"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        wait_for(lambda: len(list(tmp_path.glob("run/toy.source-*/units/unit-*"))) == 4)
        ledger = Ledger(tmp_path / "run")
        ledger.submit(ledger.request())
        for pid in workers_of(tmp_path / "run"):
            os.kill(pid, signal.SIGKILL)
        _, text = first.communicate(timeout=120)
    assert first.returncode == 3
    assert "toy.source: submission 2 took over" in text
    assert "units left" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_run_exits_3_leaves_no_process_and_resumes(
    toy_run: Command, tmp_path: Path, number: signal.Signals
) -> None:
    command = toy_run(tmp_path / "run", workers=2, trouble=hang(tmp_path, "unit-00004"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        wait_for(lambda: len(list(tmp_path.glob("run/toy.source-*/units/unit-*"))) == 4)
        launcher.send_signal(number)
        _, text = launcher.communicate(timeout=120)
    assert launcher.returncode == 3, text
    assert number == signal.SIGINT or f"stopped by {number.name}" in text
    assert len(workers_of(tmp_path / "run")) == 2
    assert not any(is_running(pid) for pid in workers_of(tmp_path / "run"))
    assert not list(tmp_path.glob("run/toy.source-*/units/.draft*"))
    (tmp_path / "trouble" / "unit-00004").unlink()
    assert run(command).returncode == 0


def test_ignored_hangup_stays_ignored(toy_run: Command, tmp_path: Path) -> None:
    """`nohup rag-hpc run &` goes on when its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local.stopping_on_signals("run"):
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Interrupted, match="rag-hpc retry run=run"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    seen = []

    def inside() -> None:
        with local.stopping_on_signals("run"):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_worker_that_ignores_the_stop_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        local.stop([child], grace_s=0.1)
        assert child.returncode == -signal.SIGKILL


def test_first_workers_are_stopped_when_a_later_one_cannot_start(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_hpc.launchers.advance import advance

    submission = ledger.submit(toystages.toy_request("run"))
    plan = advance(submission).open_plan
    assert plan is not None
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], log_fd: int, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        return started[0]

    monkeypatch.setattr(local, "start", start)
    with pytest.raises(OSError, match="temporarily"):
        local.run_stage(submission, plan, lambda plan: None)
    assert started[0].poll() == -signal.SIGTERM


@pytest.mark.parametrize("number", local.STOPPING)
def test_a_signal_amid_the_starts_leaves_no_worker(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from rag_hpc.launchers.advance import advance

    submission = ledger.submit(toystages.toy_request("run"))
    plan = advance(submission).open_plan
    assert plan is not None
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], log_fd: int, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        signal.raise_signal(number)  # as if it came before the launcher has noted what it started
        return started[-1]

    monkeypatch.setattr(local, "start", start)
    with pytest.raises((KeyboardInterrupt, Interrupted)), local.stopping_on_signals("run"):
        local.run_stage(submission, plan, lambda plan: None)
    assert [child.poll() for child in started] == [-signal.SIGTERM] * len(started)


def test_environment_holds_nothing_of_an_enclosing_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)  # of this suite
    for name in (
        "SLURM_JOB_ID",
        "SLURM_RESTART_COUNT",
        "SBATCH_QOS",
        "PMIX_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "RAG_HPC_WALLTIME_S",
        "RAG_HPC_WORLD_SIZE",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RAG_HPC_LOG", "DEBUG")
    request = toystages.toy_request("run", environment={"HF_HOME": "value", "OMP_NUM_THREADS": "64"})
    env = local.environment(Launch.array, 3, request)
    assert not [name for name in env if name.startswith(("SLURM_", "SBATCH_", "PMIX_", "OMPI_"))]
    assert {name for name in env if name.startswith("RAG_HPC_")} == {
        "RAG_HPC_LOG",
        "RAG_HPC_LAUNCH",
        "RAG_HPC_NUM_WORKERS",
    }
    assert (env["HF_HOME"], env["OMP_NUM_THREADS"], env["PYTHONSAFEPATH"]) == ("value", "1", "1")
    assert (env["RAG_HPC_LAUNCH"], env["RAG_HPC_NUM_WORKERS"]) == ("array", "3")


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "CUDA_INJECTION64_PATH", "MY_TOKEN"])
def test_a_stored_request_sets_no_variable_that_loads_code_or_is_a_secret(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from rag_hpc.cli import main

    submission = ledger.submit(toystages.toy_request("run", environment={name: "/x"}))
    with pytest.raises(ConfigError, match=f"cluster.env: {name}"):
        local.environment(Launch.array, 1, submission.request)
    assert main(["retry", f"run={ledger.run_dir}"]) == 2
    assert ledger.submissions() == [1]


def test_ranks_know_how_many_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_mpirun", lambda: ["mpirun"])
    env = local.environment(Launch.mpi, 3, toystages.toy_request("run"))
    assert (env["RAG_HPC_LAUNCH"], env["RAG_HPC_WORLD_SIZE"]) == ("mpi", "3")
    monkeypatch.setenv("RAG_HPC_WORLD_SIZE", env["RAG_HPC_WORLD_SIZE"])
    check_world_size(3)
    assert local.environment(Launch.mpi, 1, toystages.toy_request("run"))["RAG_HPC_LAUNCH"] == "array"


def test_commands_by_launch_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/run/a plan.json")
    array = local.worker_commands(Launch.array, path, 3)
    assert [command[1:] for command in array] == [["-P", "-m", "rag_hpc.worker", str(path), str(i)] for i in range(3)]
    assert local.worker_commands(Launch.torchrun, path, 3) == array  # no rendezvous, so no port
    lone = local.environment(Launch.torchrun, 3, toystages.toy_request("run"))
    assert (lone["RAG_HPC_LAUNCH"], lone["RAG_HPC_NUM_WORKERS"]) == ("array", "3")
    monkeypatch.setattr(local, "find_mpirun", lambda: ["mpirun"])
    (mpi,) = local.worker_commands(Launch.mpi, path, 3)
    assert mpi[:3] == ["mpirun", "-n", "3"] and mpi[-1] == "rank"
    monkeypatch.setattr(local, "find_mpirun", lambda: None)
    (alone,) = local.worker_commands(Launch.mpi, path, 3)
    assert alone[-1] == "0"
    assert local.environment(Launch.mpi, 3, toystages.toy_request("run"))["RAG_HPC_LAUNCH"] == "array"
    assert [command[-1] for command in local.worker_commands(Launch.torchrun, path, 1)] == ["0"]


def test_nothing_that_hosts_or_clocks_change_is_in_the_plans(toy_run: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(toy_run(tmp_path / name / "run", workers=2)).returncode == 0
    plans = [sorted((tmp_path / name).glob("run/submissions/0001/*.plan.json")) for name in ("a", "b")]
    assert [json.loads(p.read_text()) for p in plans[0]] == [json.loads(p.read_text()) for p in plans[1]]
