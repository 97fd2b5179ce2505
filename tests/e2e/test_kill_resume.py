"""Kill -9 at random moments, then go on with another number of workers: same bytes, no clean-up, no process left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, Cli, Copy, Silent, hashes

pytestmark = pytest.mark.timeout(1200)
Start = Callable[..., "subprocess.Popen[bytes]"]
Said = Callable[[], str]
STEPS = {
    "text": ("crawl", "clean", "dedup.sign", "dedup.group", "dedup.verify", "dedup.link", "dedup.drop"),
    "encode": ("encode", "lexical", "vectors.train", "vectors.build"),
    "retrieve": ("retrieve.queries", "retrieve.search", "generate", "evaluate"),
}


def processes(run_dir: Path) -> dict[int, str]:
    """Return the command lines of the processes that work on this run, by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{run_dir}/submissions/" in words:
            found[int(folder.name)] = words
    return found


def wait_for(met: Callable[[], object], what: str, limit_s: float = 240.0) -> None:
    """Return once the condition is met; fail when it is not within the limit."""
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(0.02)


def kill_workers(run_dir: Path, stages: tuple[str, ...], child: subprocess.Popen[bytes], delay_s: float) -> None:
    """Kill -9 the workers some time after one of these stages began, again and again until the run gives up."""
    plans = tuple(f"/{stage}.plan.json" for stage in stages)

    def begun() -> bool:
        at_work = any(plan in words for words in processes(run_dir).values() for plan in plans)
        return at_work or child.poll() is not None

    wait_for(begun, f"workers of {stages}")
    moment = time.monotonic() + delay_s
    wait_for(lambda: time.monotonic() > moment, "the moment")
    while child.poll() is None:
        for pid in processes(run_dir):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


@pytest.fixture
def start(workdir: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the command line in a process group of its own; none survives the test."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(*args: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "stderr").open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "rag_hpc.cli", *args],
                cwd=workdir,
                stderr=errors,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture
def said(tmp_path: Path) -> Callable[[], str]:
    """Return a function that tells what the process started last wrote to its standard error."""
    return (tmp_path / "stderr").read_text


def test_killed_three_times_and_resumed_with_other_workers_gives_the_same_hashes(
    cli: Cli, start: Start, said: Said, corpus: Path, cluster: Path
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    run_dir = cluster.parent / "killed"
    command = ("run", "run=killed", "corpus=beir", f"corpus.path={corpus}", *SMALL)

    child = start(*command, "workers=2")
    kill_workers(run_dir, STEPS["text"], child, rng.uniform(0, 3))
    assert child.returncode == 3, said()
    assert cli("status", "run=killed").returncode == 3

    child = start("retry", "run=killed", "workers=3")
    kill_workers(run_dir, STEPS["encode"], child, rng.uniform(0, 9))
    assert child.returncode == 3, said()
    assert "go on: rag-hpc retry run=killed" in said()

    child = start(*command, "workers=2")  # the same command goes on too; this time all of it is killed but the workers
    wait_for(
        lambda: any(f"/{stage}.plan" in w for w in processes(run_dir).values() for stage in STEPS["retrieve"]),
        "retrieve",
    )
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert cli("status", "run=killed").returncode == 3

    done = cli("retry", "run=killed", "workers=1")  # while orphans may still be at work
    assert done.returncode == 0, done.stderr
    assert hashes(run_dir) == hashes(cluster)
    assert cli("status", "run=killed").returncode == 0
    wait_for(lambda: not processes(run_dir), "the end of all processes")


def test_workers_killed_during_a_search_over_mpi_leave_no_half(
    cli: Cli, start: Start, cluster: Path, copy: Copy
) -> None:
    run_dir = copy("killedsearch", "vectors.train", "vectors.build", "retrieve.search", "generate", "evaluate")
    child = start("retry", "run=killedsearch", "workers=3")
    kill_workers(run_dir, ("retrieve.search",), child, random.SystemRandom().uniform(0, 3))
    assert child.returncode in (0, 3)  # 0 where the search had ended before the moment came
    done = cli("retry", "run=killedsearch", "workers=2")
    assert done.returncode == 0, done.stderr
    assert hashes(run_dir) == hashes(cluster)
    wait_for(lambda: not processes(run_dir), "the end of all processes")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, "stopped by SIGTERM; what is committed stays, go on: rag-hpc retry run=stopped"),
        (signal.SIGINT, "stopped; what is committed stays, the same command goes on"),
    ],
)
def test_a_signal_stops_the_run_with_the_command_to_go_on(
    cli: Cli, start: Start, said: Said, silent: Silent, workdir: Path, number: signal.Signals, words: str
) -> None:
    run = f"stopped{number.name[3:].lower()}"
    run_dir = workdir / "results/runs" / run
    corpus, speaks = silent
    child = start("run", f"run={run}", *corpus)
    wait_for(lambda: processes(run_dir), "a worker")
    child.send_signal(number)
    assert child.wait(timeout=60) == 3, said()
    assert words.replace("run=stopped", f"run={run}") in said()
    assert processes(run_dir) == {}
    assert cli("status", f"run={run}").returncode == 3
    speaks.set()
    assert cli("retry", f"run={run}", "workers=1").returncode == 0
    assert cli("status", f"run={run}").returncode == 0
