"""A run on this machine listens on nothing that another account, or another machine, could speak to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toystages import NOTE

from rag_hpc.launchers import local, loopback

pytestmark = pytest.mark.timeout(300)


def descendants(root: int) -> set[int]:
    """Return the pids of a process and all that it started, and that those did."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(root: int) -> Iterator[str]:
    """Yield, as /proc writes it, each TCP address of this machine's network that one of the processes listens on."""
    inodes = set()
    for pid in descendants(root):
        try:
            inodes |= {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:  # it ended, or closed the file
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                yield words[1]


@pytest.mark.parametrize("stage", ["toy.each", "toy.gather"])
def test_local_run_listens_on_nothing(toy_run: Callable[..., list[str]], tmp_path: Path, stage: str) -> None:
    if stage == "toy.gather" and (local.find_mpirun() is None or not loopback.may_leave()):
        pytest.skip("no mpirun, no mpi4py, or no right to a network namespace on this machine")
    note = tmp_path / "unit-00001"
    note.write_text("wait")
    command = toy_run(tmp_path / "run", stages=[stage], workers=2, num_units=4, trouble=str(tmp_path))
    with subprocess.Popen(command) as run:
        try:
            end = time.monotonic() + 120
            while not list(tmp_path.glob(f"run/{stage}-*/units/unit-00000/{NOTE}")):
                assert run.poll() is None and time.monotonic() < end, "no unit was done"
                time.sleep(0.05)
            assert len(descendants(run.pid)) > 2 and list(listening(run.pid)) == []
        finally:
            note.unlink()
        assert run.wait(120) == 0


def test_command_in_a_network_of_its_own_stays_who_it_is_and_reaches_its_loopback() -> None:
    if not loopback.may_leave():
        pytest.skip("no right to a network namespace on this machine")
    server = """
import os, socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print(os.getuid(), [name for _, name in socket.if_nameindex()])
"""
    command = [sys.executable, "-m", "rag_hpc.launchers.loopback", "python3", "-c", server]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{os.getuid()} ['lo']\n", done.stderr
