"""`python -m rag_hpc.launchers.loopback COMMAND ...`: run a command whose network is a loopback of its own.

mpirun listens on every interface, whatever it is told, and takes commands there. In a network namespace of its own it
is reached by its ranks alone, by no other machine and no other account of this one.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import socket
import struct
import sys
from pathlib import Path

from rag_hpc.core.log import configure

log = logging.getLogger(__name__)
NEW_USER, NEW_NET = 0x10000000, 0x40000000  # of unshare(2)
SET_FLAGS, IS_UP = 0x8914, 0x1  # of netdevice(7)


def main(argv: list[str] | None = None) -> int:
    """Become the command; without the right to namespaces, as some systems are set up, it runs as it is."""
    command = sys.argv[1:] if argv is None else argv
    if may_leave():
        leave_network()
    else:
        configure()
        log.warning(
            "this system lets nobody have a network namespace: %s listens on every interface while its stage runs; "
            "allow them (sysctl user.max_net_namespaces, kernel.unprivileged_userns_clone), or run with workers=1",
            command[0],
        )
    os.execvp(command[0], command)


def may_leave() -> bool:
    """Return whether `leave_network` works here: tried in a child, since there is no way back."""
    child = os.fork()
    if child == 0:
        try:
            leave_network()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def leave_network() -> None:
    """Enter a network namespace that has nothing but a loopback. Raises OSError without the right to."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NET) != 0:  # for root; others need a user namespace around it, in which they stay who they are
        if libc.unshare(NEW_USER | NEW_NET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh22x", b"lo", IS_UP))


if __name__ == "__main__":
    sys.exit(main())
