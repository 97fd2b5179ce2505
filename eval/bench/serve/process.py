"""Programs beside a measurement: started and ended, held to some cores, and what they take of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

START_S = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def held(pids: Sequence[int], cores: set[int], proc: Path = Path("/proc")) -> Iterator[None]:
    """Hold the processes, all their threads, to these cores; afterwards they may have those of before again."""
    before: dict[int, set[int]] = {}
    for pid in pids:
        for task in (proc / str(pid) / "task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                before[int(task.name)] = os.sched_getaffinity(int(task.name))
                os.sched_setaffinity(int(task.name), cores)
    try:
        yield
    finally:
        for task_id, all_cores in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(task_id, all_cores)


def cpu_s(pid: int, proc: Path = Path("/proc")) -> float:
    """Return the seconds of CPU that a process has taken."""
    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def waited_s(pid: int, proc: Path = Path("/proc")) -> float:
    """Return the seconds that the threads of a process were ready to run without a core; 0 where nothing tells."""
    found = 0.0
    for path in (proc / str(pid) / "task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += int(path.read_text().split()[1]) / 1e9
    return found


def rss_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the memory that a process holds."""
    pages = int((proc / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def started(command: Sequence[str], port: int, within_s: float = START_S, **given: Any) -> Iterator[int]:
    """Yield the process of a program once its port takes connections; it is gone afterwards. Raises TimeoutError."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet | given) as process:
        try:
            _wait(lambda: _listens(port) or process.poll() is not None, within_s, command[0])
            if process.poll() is not None:
                raise TimeoutError(f"{command[0]} ended with {process.returncode} before it listened")
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _wait(done: Callable[[], bool], within_s: float, what: str) -> None:
    end = time.monotonic() + within_s
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: does not listen within {within_s:g} s")
        time.sleep(0.05)
