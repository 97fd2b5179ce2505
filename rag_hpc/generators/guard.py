"""`python -m rag_hpc.generators.guard GRACE_S FOLDER COMMAND ...`: run a command that must not outlive its owner.

The owner holds the other end of our standard input. It ends with the owner, however that ends, and then the command
and all that came of it are stopped, asked first, killed after GRACE_S, and FOLDER, its own, is removed. Signals to the
job are not ours to act on: the owner hears them too, and may still have use for the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
POLL_S = 0.1
_SEGMENT = re.compile(r"/dev/shm/(?:psm|vllm)_[^\s/]+")


def main(words: list[str]) -> int:
    """Run the command until it ends or standard input does; return its exit code. A folder stays in the first case."""
    grace_s, folder, command = float(words[0]), words[1], words[2:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes our child
    for number in HELD:
        signal.signal(number, lambda number, frame: None)  # unlike SIG_IGN, not handed on to the command
    parent = os.getpid()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: die_with(parent)
    )
    owner = select.poll()
    owner.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while child.poll() is None and not owner.poll(1000 * POLL_S):
        pass
    ended, segments = child.poll() is not None, shared_memory(_descendants(os.getpid()))
    if not ended:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    kill_descendants()
    for segment in segments:
        segment.unlink(missing_ok=True)
    if not ended:
        shutil.rmtree(folder, ignore_errors=True)
    return child.wait()


def prctl(option: int, value: int) -> None:
    """Set a property of this process, where the system is Linux; elsewhere the command's group has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone; end at once where that is so by now.

    What Slurm sends to all processes of a step before the walltime ends is for the owner: to a server it would mean
    death, by default, and all that comes of it inherits that it is ignored.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def kill_descendants() -> None:
    """Kill all children, and those that they leave to us, until there are none."""
    end = time.monotonic() + 10
    while (children := _children(os.getpid())) and time.monotonic() < end:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def shared_memory(pids: list[int]) -> set[Path]:
    """Return the segments of Python's and vLLM's shared memory that the processes map: the killed leave them in RAM."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= {Path(name) for name in _SEGMENT.findall(Path(f"/proc/{pid}/maps").read_text())}
    return found


def _descendants(parent: int) -> list[int]:
    found = _children(parent)
    return found + [below for child in found for below in _descendants(child)]


def _children(parent: int) -> list[int]:
    """Return the processes whose parent that is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
