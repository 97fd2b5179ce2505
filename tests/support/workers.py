"""The worker processes of a run, wherever on this machine they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def kill_workers(run_dir: Path) -> int:
    """SIGKILL every worker process of the run, on whichever node; return how many there were."""
    killed = 0
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        program = Path(os.fsdecode(line.split(b"\0")[0])).name  # srun's words are the worker's too, and it outlives one
        is_worker = program.startswith("python") and (b"submitit.core._submit" in line or b"rag_hpc.worker" in line)
        if is_worker and str(run_dir).encode() in line:
            os.kill(int(entry.name), signal.SIGKILL)
            killed += 1
    return killed
