"""A real Slurm for the tests of this folder: started once a session, and gone without a trace at its end."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster.processes import wait_for

STATES = Path("/var/tmp")  # of the suites' clusters; not tmp_path: nodes hide /tmp
PREFIX = "rag-hpc-devcluster-"


@pytest.fixture(scope="session")
def devcluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dc.DevCluster]:
    """Yield the session's four nodes, which also see pytest's tmp_path folders; it is down again at the end."""
    missing = dc.requirements()
    if missing:
        pytest.skip(f"no development cluster here: {'; '.join(missing)}")
    _take_down_leftovers()
    before = dc.snapshot()
    state = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATES))
    with _lock_of(state).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield dc.up(state, share=[tmp_path_factory.getbasetemp()])
        finally:
            dc.down(state)
            shutil.rmtree(state, ignore_errors=True)
            _lock_of(state).unlink()
    assert dc.snapshot() == before


def _lock_of(state: Path) -> Path:
    """Return the file beside a cluster's folder that its suite holds locked for as long as it lives."""
    return state.with_name(f"{state.name}.lock")


def _take_down_leftovers() -> None:
    """Take down the clusters of suites that were killed: the kernel has released their locks."""
    for lock in STATES.glob(f"{PREFIX}*.lock"):
        state = lock.with_name(lock.name.removesuffix(".lock"))
        with lock.open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            dc.down(state)
            shutil.rmtree(state, ignore_errors=True)
            lock.unlink()


@pytest.fixture
def killed_suite() -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield the folder of a cluster whose suite is dead, and what every suite does first."""
    state = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATES))
    _lock_of(state).touch()
    yield state, _take_down_leftovers
    _take_down_leftovers()


@pytest.fixture
def machine_snapshot() -> Callable[[], dict[str, object]]:
    """Return the function that tells what a cluster changes on its machine."""
    return dc.snapshot


@pytest.fixture
def slurm_env(devcluster: dc.DevCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[dc.DevCluster]:
    """Yield the cluster with this process's environment pointing at it: plain `sbatch` reaches it.

    Afterwards every job is cancelled and gone, so that no test waits for another's.
    """
    for name, value in devcluster.env().items():
        monkeypatch.setenv(name, value)
    yield devcluster
    wait_for(_queue_is_empty, "the test's jobs to go", timeout_s=120, step_s=0.3)


def _queue_is_empty() -> bool:
    """Cancel every job, and return whether there was none left: a gate at work may have queued some meanwhile."""
    done = subprocess.run(["squeue", "-h"], capture_output=True, text=True, timeout=60)
    if done.stdout.strip():
        subprocess.run(["scancel", "-u", "root"], check=False, capture_output=True, timeout=60)
    return done.returncode == 0 and not done.stdout.strip()


@pytest.fixture
def faulty(slurm_env: dc.DevCluster) -> Iterator[dc.DevCluster]:
    """Yield the cluster for a test that breaks parts of it; afterwards everything runs and is plugged in again."""
    yield slurm_env
    slurm_env.repair()


@pytest.fixture
def shared_tmp(devcluster: dc.DevCluster) -> Iterator[Path]:
    """Yield an empty folder that the host and all nodes see; removed afterwards."""
    folder = devcluster.mkshared(f"test-{uuid.uuid4().hex[:8]}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sh(slurm_env: dc.DevCluster) -> Callable[..., str]:
    """Return a function that runs a command line on the host and returns its output; a failure fails the test."""

    def call(*argv: str, cwd: Path | None = None, timeout_s: float = 180) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, cwd=cwd)
        assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    return call
