"""A server that lives inside a worker's job: started under a guard, ready once it answers, gone with its owner."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rag_hpc.errors import ClusterError

log = logging.getLogger(__name__)

GRACE_S = 3.0  # for a server that is told to end: nobody is asking it any more
KILLED_S = 15.0  # within which its guard is done with it after that
POLL_S = 0.25
TAIL_LINES, TAIL_CHARS = 30, 4000
FIRST_PORT, PORTS_EACH = 16_384, 64  # below the kernel's ephemeral range, where a client may hold any port
NUM_RANGES = 256


class Server:
    """A command that runs until it is closed, or its owner ends; its folder goes with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """folder: of the server alone; its log is written there."""
        self._log_path = folder / "log"
        guard = [sys.executable, "-P", "-m", "rag_hpc.generators.guard", f"{GRACE_S:g}", str(folder), *command]
        with self._log_path.open("ab") as stream:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # who kills the owner's whole group must leave it to clean up
            )

    def is_alive(self) -> bool:
        """Return whether the command still runs."""
        return self._guard.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float, check_stop: Callable[[], None]) -> float:
        """Return the seconds until `is_ready()` was true.

        Raises ClusterError with the end of the log when the command ends before, or is not ready in time.
        """
        begun = time.monotonic()
        while not is_ready():
            check_stop()
            waited_s = time.monotonic() - begun
            if not self.is_alive():
                raise ClusterError(f"it ended with code {self._guard.returncode} before it answered; {self.tail()}")
            if waited_s > timeout_s:
                raise ClusterError(f"it did not answer within {timeout_s:g} s; {self.tail()}")
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def tail(self) -> str:
        """Return the last lines of its log, with its path."""
        text = self._log_path.read_text(encoding="utf-8", errors="replace") if self._log_path.exists() else ""
        lines = "\n".join(text.splitlines()[-TAIL_LINES:])[-TAIL_CHARS:]
        return f"the end of its log on {socket.gethostname()}:\n{lines or '(it said nothing)'}"

    def close(self) -> None:
        """End it and all its processes; return when they are gone."""
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        try:
            self._guard.wait(GRACE_S + KILLED_S)
        except subprocess.TimeoutExpired:
            log.warning("a server's guard did not end in %g s and is killed", GRACE_S + KILLED_S)
            self._guard.kill()
            self._guard.wait()


class PortRange:
    """Ports of this node that are ours among all jobs that ask in this way, whosesoever; held until it is closed.

    The claim is an abstract Unix socket: one name a node (more exactly a network namespace, as with ports), and it goes
    with the process.
    """

    def __init__(self) -> None:
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for number in range(NUM_RANGES):
            with contextlib.suppress(OSError):
                self._claim.bind(f"\0rag-hpc-ports-{number}")
                self.first = FIRST_PORT + number * PORTS_EACH
                return
        self._claim.close()
        raise ClusterError(f"all {NUM_RANGES} ranges of ports on {socket.gethostname()} are taken by other servers")

    def free_port(self) -> int:
        """Return the last port of the range that nobody listens on; the first ones are the server's own."""
        for port in reversed(range(self.first, self.first + PORTS_EACH)):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise ClusterError(f"ports {self.first} to {self.first + PORTS_EACH - 1} are all in use; see: ss -ltn")

    def close(self) -> None:
        """Give the ports back."""
        self._claim.close()


def num_accelerators() -> int:
    """Return how many accelerators this job may use on this node; 0 where it has none."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in os.environ:
            return len([one for one in os.environ[name].split(",") if one.strip() not in ("", "-1", "NoDevFiles")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
