"""Compiled code on disk: one process compiles at a time, the others load what it made."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from rag_hpc.algo.jit import LOCK

KERNELS = """
from rag_hpc.algo.jit import jit

@jit
def inner(x):
    return x + 1

@jit
def outer(x):
    return inner(x) * 2
"""
WORKER = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from rag_hpc.algo import jit
{setup}
import kernels
kernels.outer(20)
misses = [sum(f.stats.cache_misses.values()) for f in (kernels.outer, kernels.inner)]
print(kernels.outer(20), *misses)
"""
NO_LOCKS = """
def flock(*given):
    raise OSError(37, "No locks available")
jit.fcntl.flock = flock
"""
FORKS = """
import os, signal
take = jit.fcntl.flock
def flock(lock, how):
    take(lock, how)
    if how & jit.fcntl.LOCK_EX:
        child = os.fork()
        if child == 0:
            os.closerange(0, 3)
            signal.pause()
        print(child, flush=True)
jit.fcntl.flock = flock
"""


def _worker(folder: Path, setup: str = "") -> subprocess.Popen[str]:
    (folder / "kernels.py").write_text(KERNELS)
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}  # beside the kernels
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(setup=setup)],
        cwd=folder,
        text=True,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _said(worker: subprocess.Popen[str]) -> list[str]:
    return worker.communicate(timeout=120)[0].splitlines()


def _cache(folder: Path) -> Path:
    found = folder / "__pycache__"
    found.mkdir(exist_ok=True)
    return found


def test_of_processes_that_start_together_one_compiles(tmp_path: Path) -> None:
    with open(_cache(tmp_path) / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workers = [_worker(tmp_path) for _ in range(3)]
    assert sorted(line for worker in workers for line in _said(worker)) == ["42 0 0", "42 0 0", "42 1 1"]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = f"import fcntl\nlock = open({LOCK!r}, 'wb')\nfcntl.flock(lock, 2)\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=_cache(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        worker = _worker(tmp_path)
        holder.kill()
        assert _said(worker) == ["42 1 1"]


def test_a_child_forked_while_its_parent_compiles_does_not_keep_the_lock(tmp_path: Path) -> None:
    child, last = _said(_worker(tmp_path, FORKS))
    try:
        with open(_cache(tmp_path) / LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(int(child), signal.SIGKILL)
    assert last == "42 1 1"


def test_a_process_that_gets_no_turn_compiles_for_itself_and_says_so_once(tmp_path: Path) -> None:
    with open(_cache(tmp_path) / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hung = _worker(tmp_path, "jit._PATIENCE_S = 0.1")
        said, last = _said(hung)
    assert last == "42 1 1" and "compiles for itself" in said and LOCK in said


def test_a_filesystem_without_locks_is_no_obstacle(tmp_path: Path) -> None:
    said, last = _said(_worker(tmp_path, NO_LOCKS))
    assert last == "42 1 1" and "No locks available" in said


def test_a_folder_in_which_no_lock_can_be_made_is_no_obstacle(tmp_path: Path) -> None:
    (_cache(tmp_path) / LOCK).mkdir()
    said, last = _said(_worker(tmp_path))
    assert last == "42 1 1" and "Is a directory" in said
