"""Commands on a terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path


def on_terminal(argv: Sequence[str], cwd: Path, columns: int = 80) -> str:
    """Return all that a command writes to a terminal, with what steers it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env, close_fds=True)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # nobody writes any more
            part = b""
        if not part:
            break
        said += part
    os.close(ours)
    child.wait(timeout=60)
    return said.decode()


def screen(said: str) -> list[str]:
    """Return the lines as they stand at the end where only carriage returns steer the terminal."""
    lines = []
    for line in said.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines
