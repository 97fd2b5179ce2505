"""The cluster's daemons: started apart from the caller, found again by any later process, and killed whole.

Every daemon gets the environment variable OWNER_VAR=<state folder>. A pid file says which process is which; the
variable says that the pid is still ours, and finds what a killed `up` left before it wrote a pid file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rag_hpc.errors import ClusterError

from .config import DevClusterConfig

OWNER_VAR = "RAG_HPC_DEVCLUSTER_OWNER"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DETACHED = 'umask 022; echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"'


def clean_env(config: DevClusterConfig) -> dict[str, str]:
    """Return an environment with nothing of the caller's: SLURM_* or PMIX_* from outside would reach every job."""
    return {
        "PATH": SYSTEM_PATH,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(config.slurm_conf),
    }


def daemon_env(config: DevClusterConfig) -> dict[str, str]:
    """Return the environment of a daemon: clean, and marked as owned by this state folder."""
    # MYSQL_UNIX_PORT: slurmdbd has no setting for the database's socket, its client library reads this
    return {**clean_env(config), OWNER_VAR: str(config.state), "MYSQL_UNIX_PORT": str(config.mariadb_socket)}


def run(argv: Sequence[str], *, env: dict[str, str] | None = None, timeout_s: float = 60) -> str:
    """Return the standard output of a system program. Raises ClusterError with its error text when it fails."""
    env = env or {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ClusterError(f"{' '.join(argv)}: {err}") from err
    if done.returncode:
        raise ClusterError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def pid_file(config: DevClusterConfig, name: str) -> Path:
    """Return the path of the named daemon's pid file."""
    return config.state / "run" / f"{name}.pid"


def log_file(config: DevClusterConfig, name: str) -> Path:
    """Return the path of what the named daemon prints."""
    return config.state / "log" / f"{name}.out"


def spawn(config: DevClusterConfig, name: str, argv: Sequence[str]) -> int:
    """Return the pid of a detached daemon in its own session; it is nobody's child, so it outlives the caller."""
    path = pid_file(config, name)
    path.unlink(missing_ok=True)
    with log_file(config, name).open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", _DETACHED, str(path), *argv],
            env=daemon_env(config),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            timeout=30,
        )
    wait_for(path.exists, f"{name} to start", timeout_s=30)
    return int(path.read_text())


def find(config: DevClusterConfig, name: str) -> int | None:
    """Return the pid of the named daemon when it runs and is ours, else None."""
    try:
        pid = int(pid_file(config, name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid in _owned([pid], config.state) else None


def owned_pids(state: Path) -> list[int]:
    """Return the pids of all processes that carry this state folder's mark."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in _owned(sorted(pids), state) if pid != os.getpid()]


def alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pids: Iterable[int], signum: signal.Signals = signal.SIGKILL, *, timeout_s: float = 60) -> None:
    """Signal the processes and wait until they are gone. Raises ClusterError when one stays."""
    targets = list(pids)
    for pid in targets:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue
    wait_for(lambda: not any(alive(pid) for pid in targets), f"processes {targets} to end", timeout_s=timeout_s)


def wait_for(ready: Callable[[], bool], what: str, *, timeout_s: float, step_s: float = 0.05) -> None:
    """Return once `ready` holds. Raises ClusterError that names `what` after timeout_s."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise ClusterError(f"devcluster: waited {timeout_s:g} s for {what}")
        time.sleep(step_s)


def wait_for_daemon(config: DevClusterConfig, name: str, ready: Callable[[], bool], *, timeout_s: float = 90) -> None:
    """Return once `ready` holds. Raises ClusterError at once when the daemon ends, or after timeout_s."""

    def ready_or_ended() -> bool:
        if find(config, name) is None:
            raise ClusterError(f"devcluster: {name} ended while it started")
        return ready()

    wait_for(ready_or_ended, f"{name} to answer", timeout_s=timeout_s)


def _owned(pids: Sequence[int], state: Path) -> list[int]:
    mark, found, blank = f"{OWNER_VAR}={state}".encode(), set(), list(pids)
    for pause_s in (0.0, 0.01, 0.05):  # a process shows no environment for the instant in which it calls exec
        if blank:
            time.sleep(pause_s)
        environs = {pid: _environ(pid) for pid in blank if alive(pid)}
        found |= {pid for pid, environ in environs.items() if mark in environ.split(b"\0")}
        blank = [pid for pid, environ in environs.items() if not environ]
    return [pid for pid in pids if pid in found]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended meanwhile, or is not ours to read
        return b""
