"""`python -m rag_hpc.launchers.ports`: print a port on this host that a job can rendezvous at.

Ports of the ephemeral range may be taken at any moment by a client's connection, so the port lies below it. Where to
begin is drawn by the system: two jobs of one host do not try the same, and nobody can tell it from a job's number.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from rag_hpc.errors import ClusterError

FIRST = 15_000  # above the ports of common services
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def find_port(seed: int, *, last: int, free: Callable[[int], bool]) -> int:
    """Return the first free port from a start that `seed` chooses, between FIRST and `last`, exclusive.

    Raises ClusterError when there is none.
    """
    num_ports = last - FIRST
    for step in range(max(num_ports, 0)):
        port = FIRST + (seed + step) % num_ports
        if free(port):
            return port
    raise ClusterError(
        f"no free port from {FIRST} to {last} on {socket.gethostname()}; is a firewall or another job "
        "holding them? see: ss -ltn"
    )


def ephemeral_start(path: Path = RANGE_FILE) -> int:
    """Return where the kernel's ephemeral range begins; 32768, its default, where the kernel does not tell."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def can_bind(port: int) -> bool:
    """Return whether the port can be listened on, on every interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def main() -> int:
    """Print the port; return the exit code."""
    try:
        print(find_port(secrets.randbelow(1 << 16), last=ephemeral_start(), free=can_bind))
    except ClusterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
