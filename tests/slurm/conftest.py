"""A real Slurm for the tests of this folder: started once a session, and gone without a trace at its end."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster.processes import wait_for

DAEMONS = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd"}


Snapshot = dict[str, object]


def _machine_snapshot() -> Snapshot:
    """Return what a cluster changes on its machine: taken before and after, the two must be equal."""
    own_net = Path("/proc/self/ns/net").readlink()
    processes = set()
    for entry in Path("/proc").iterdir():
        try:
            away = entry.name.isdigit() and (entry / "ns/net").readlink() != own_net
            daemon = entry.name.isdigit() and (entry / "comm").read_text().strip() in DAEMONS
            if (away or daemon) and (entry / "cmdline").read_bytes():   # no command line: a zombie init has to reap
                processes.add(int(entry.name))
        except OSError:
            continue
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    netns = Path("/run/netns")
    return {
        "processes": processes,
        "links": sorted(line.split()[0] for line in links.splitlines()),
        "namespaces": sorted(p.name for p in netns.iterdir()) if netns.is_dir() else None,
        "mounts": sorted(line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "hosts": Path("/etc/hosts").read_bytes(),
        "devices": sorted(p.name for p in Path("/dev").iterdir()),
        "state": sorted(p.name for p in Path("/var/lib").glob("rag-hpc*")),
    }


@pytest.fixture(scope="session")
def devcluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dc.DevCluster]:
    """Yield the session's four nodes, which also see pytest's tmp_path folders; it is down again at the end."""
    missing = dc.requirements()
    if missing:
        pytest.skip(f"no development cluster here: {'; '.join(missing)}")
    before = _machine_snapshot()
    state = Path(tempfile.mkdtemp(prefix="rag-hpc-devcluster-", dir="/var/tmp"))   # not tmp_path: nodes hide /tmp
    try:
        yield dc.up(state, share=[tmp_path_factory.getbasetemp()])
    finally:
        dc.down(state)
        shutil.rmtree(state, ignore_errors=True)
    assert _machine_snapshot() == before


@pytest.fixture
def machine_snapshot() -> Callable[[], Snapshot]:
    """Return the function that tells what a cluster changes on its machine."""
    return _machine_snapshot


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
