"""Scratch goes with its worker, and what a killed one left goes with the next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accounts import Account

from rag_hpc.core.scratch import scratch_folder
from rag_hpc.errors import DiskError

HOLD = """
from rag_hpc.core.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "runs").write_bytes(b"sorted")
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAG_HPC_SCRATCH", str(tmp_path))
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    """Return a process in its scratch folder, and that folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    return child, Path(child.stdout.readline().strip())


def test_scratch_is_removed_whatever_happens(root: Path) -> None:
    with pytest.raises(ValueError, match="odd"), scratch_folder() as folder:
        (folder / "a").touch()
        assert folder.parent == root
        raise ValueError("odd")
    assert list(root.iterdir()) == []


def test_a_full_disk_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(DiskError, match="no space"), scratch_folder():
        pass


def test_a_place_that_is_not_there_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_HPC_SCRATCH", "/no/such/folder")
    with scratch_folder() as folder:
        assert folder.is_dir()


def test_what_a_killed_worker_left_goes_and_what_a_live_one_has_stays(root: Path) -> None:
    killed, left = holder()
    live, held = holder()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "runs").exists()
    foreign = [root / f"rag-hpc-scratch-{name}" for name in (f"{socket.gethostname()}x-abc", "elsewhere-abc")]
    for folder in (*foreign, root / "other"):
        folder.mkdir()
    with scratch_folder() as mine:
        assert not left.exists()
        assert sorted(root.iterdir()) == sorted([mine, held, *foreign, root / "other"])
        assert (held / "runs").exists()
    live.communicate("\n")
    assert live.returncode == 0 and not held.exists()


@pytest.mark.timeout(20)  # whoever opens a pipe waits for its writer
def test_what_is_no_folder_of_ours_is_passed_over(
    shared_root: Path, stranger: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_HPC_SCRATCH", str(shared_root))
    prefix = shared_root / f"rag-hpc-scratch-{socket.gethostname()}-"
    assert stranger.run(["mkfifo", "-m", "666", f"{prefix}pipe"]).returncode == 0
    assert stranger.run(["mkdir", "-m", "777", f"{prefix}folder"]).returncode == 0
    assert stranger.run(["ln", "-s", str(shared_root), f"{prefix}link"]).returncode == 0
    before = sorted(shared_root.iterdir())
    with scratch_folder() as mine:
        assert sorted(shared_root.iterdir()) == sorted([*before, mine])
    assert sorted(shared_root.iterdir()) == before and len(before) == 3


def test_a_folder_taken_for_a_left_one_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker finds it between its making and its lock."""
    opened, real = list[str](), os.open

    def late(path: str, flags: int) -> int:
        opened.append(str(path))
        if len(opened) == 1:
            Path(path).rmdir()
        return real(path, flags)

    monkeypatch.setattr(os, "open", late)
    with scratch_folder() as folder:
        monkeypatch.undo()
        assert folder.is_dir() and str(folder) != opened[0]


def test_without_locks_nothing_of_others_is_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, left = holder()
    killed.kill()
    killed.communicate()

    def none(descriptor: int, how: int) -> None:
        raise OSError(38, "not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with scratch_folder() as folder:
        assert folder.is_dir() and left.is_dir()
    assert not folder.exists()
