"""What stays up after its command has ended, under a keeper on this machine or in jobs of Slurm: groups of ranks,
replicas and gateways are started, found and ended alike."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rag_hpc.core.stage import Launch
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ClusterError, ConfigError, RagHpcError
from rag_hpc.launchers.local import environment
from rag_hpc.serve.places import KeptBy

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Request
    from rag_hpc.slurm.client import Slurm

POLL_S, DOWN_S = 0.1, 60.0


class Place(Protocol):
    """Where such a thing keeps its files."""

    run_dir: Path
    name: str
    folder: Path

    def keeper(self) -> KeptBy:
        """Return where its keeper runs."""


def start(
    place: Place,
    module: str,
    names: Sequence[str],
    *,
    world: int,
    request: Request,
    log: str,
    wait: Callable[[Callable[[], bool]], object],
) -> None:
    """Start a keeper on this machine, which outlives this process, and return when `wait` does.

    wait: given what tells whether the keeper lives; where it raises, the keeper is ended.
    """
    with private_files(), (place.folder / log).open("ab") as stream:
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(place.run_dir), place.name, *names],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=place.folder,
            env=environment(Launch.array, world, request),
            start_new_session=True,
        )
    try:
        wait(lambda: keeper.poll() is None)
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    keeper.returncode = 0  # it outlives this process, which Popen would warn of


def stop(place: Place, module: str, within_s: float = DOWN_S) -> None:
    """End the keeper on this machine, with its children. Raises ConfigError for one of another machine."""
    with contextlib.suppress(FileNotFoundError):
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            raise ConfigError(f"{place.folder} was started on {keeper.host}; end it there")
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + within_s
        pid = keeper_pid(place, module)
        if pid is not None:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        while keeper_pid(place, module) is not None and time.monotonic() < limit:
            time.sleep(POLL_S)


def keeper_pid(place: Place, module: str, proc: Path = Path("/proc")) -> int | None:
    """Return the process that keeps up what is at `place` on this machine, None where it does not run."""
    try:
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            return None
        words = (proc / str(keeper.pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, RagHpcError):
        return None
    return keeper.pid if module in words and str(place.run_dir) in words else None


def said(place: Place, num_lines: int = 8) -> str:
    """Return the ends of the logs at a place."""
    ends = []
    for path in sorted(place.folder.glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        ends += [f"==> {path.name} <==", *lines[-num_lines:]]
    return "\n".join(ends)


def submit(slurm: Slurm, script: str, note: Callable[[str], object]) -> str:
    """Submit a job and return its id; it may start once `note` has written down that id, and goes where that fails."""
    job = slurm.submit(script, args=["--hold"])
    try:
        note(job)
        slurm.release([job])
    except BaseException:
        slurm.cancel([job])
        raise
    return job


def cancel(slurm: Slurm, jobs: Callable[[], Sequence[str]], sleep: Callable[[float], None] = time.sleep) -> None:
    """Cancel jobs, those that come meanwhile too, and return when they have left the queue. Raises ClusterError."""
    left_s = DOWN_S
    while True:
        asked = jobs()
        slurm.cancel(asked)
        if not set(asked) & set(slurm.queued()):
            return
        if left_s <= 0:
            raise ClusterError(f"jobs {', '.join(asked)} are cancelled but still queued; again: rag-hpc serve down")
        sleep(1.0)
        left_s -= 1.0
