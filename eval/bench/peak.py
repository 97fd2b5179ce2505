"""Runs a command and writes the largest resident memory of its process: python -m rag_hpc.eval.bench.peak FOLDER CMD...

Under mpirun each rank is such a pair of processes; FOLDER gets a file of bytes for each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(folder: str, *command: str) -> int:
    """Run the command; return its exit code."""
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    (Path(folder) / str(child.pid)).write_text(str(usage.ru_maxrss * 1024), encoding="ascii")
    return child.returncode


def through(folder: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs another one and notes its memory in the folder."""
    return [sys.executable, "-m", "rag_hpc.eval.bench.peak", str(folder), *command]


def peaks(folder: Path) -> list[int]:
    """Return the bytes that were noted in the folder."""
    return [int(path.read_text(encoding="ascii")) for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
