"""The machine and the code that a run tells of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rag_hpc import __version__
from rag_hpc.core import origin
from rag_hpc.core.ledger import Ledger


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", "-C", str(folder), *names, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_machine_is_told_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(origin, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor @ 2 GHz\nflags\t: avx2\n")
    monkeypatch.setattr(origin, "GPUINFO", tmp_path / "gpus")
    for number in range(2):
        (tmp_path / f"gpus/{number}").mkdir(parents=True)
        (tmp_path / f"gpus/{number}/information").write_text("Model: \t\t A GPU 80GB\nIRQ: 7\n")
    origin.hardware.cache_clear()
    found = origin.hardware()
    origin.hardware.cache_clear()
    assert found["cpu"] == "A Processor @ 2 GHz" and found["gpus"] == ["A GPU 80GB"] * 2
    assert found["cores"] == os.cpu_count() and found["memory_bytes"] > 1 << 28


def test_the_commit_is_that_of_git_in_every_layout(tmp_path: Path) -> None:
    assert origin.git_commit(tmp_path) is None
    git(tmp_path, "init", "-q", "main")
    main, beside = tmp_path / "main", tmp_path / "beside"
    git(main, "commit", "-q", "--allow-empty", "-m", "one")
    git(main, "worktree", "add", "-q", "-b", "side", str(beside))
    git(beside, "commit", "-q", "--allow-empty", "-m", "two")
    for folder in (main, beside):
        assert origin.git_commit(folder) == git(folder, "rev-parse", "HEAD")
    git(main, "pack-refs", "--all")
    assert origin.git_commit(beside) == git(beside, "rev-parse", "HEAD")
    git(main, "checkout", "-q", "--detach")
    assert origin.git_commit(main) == git(main, "rev-parse", "HEAD")


def test_a_run_tells_which_code_was_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    ledger.create({"corpus": {}})
    assert ledger.made()["made_by"] == {"version": __version__, "git": origin.git_commit(origin.CHECKOUT)}
