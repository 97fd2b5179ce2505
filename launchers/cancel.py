"""Stopping a run: its jobs on Slurm, or its processes on this machine. What is committed stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rag_hpc.launchers.chain import live_ids
from rag_hpc.launchers.ledger import Ledger
from rag_hpc.slurm.client import Slurm, connect

GRACE_S = 15.0
ENTRIES = ("rag_hpc.worker", "torch.distributed.run")


def cancel_run(ledger: Ledger, *, slurm: Slurm | None = None) -> str:
    """Return what was stopped, in words."""
    request = ledger.request()
    if request.cluster["launcher"] != "slurm":
        return cancel_local(ledger)
    slurm = slurm or connect(request.cluster["name"], request.cluster["slurm_conf"])
    stopped: list[str] = []
    number = 0
    while number < ledger.submissions()[-1]:  # a gate may have resubmitted meanwhile
        number = ledger.submissions()[-1]
        found = live_ids(ledger, slurm, number)
        slurm.cancel(found)
        if found:
            ledger.add_job(number, stage="", kind="cancel", ids=found)
        stopped += found
    return f"cancelled {len(stopped)} jobs: {', '.join(stopped)}" if stopped else "no job of it was in the queue"


def cancel_local(ledger: Ledger, *, sleep: Callable[[float], None] = time.sleep, proc: Path = Path("/proc")) -> str:
    """Ask the run's workers on this machine to stop, wait until they have, and return how many there were."""
    pids = [pid for job in ledger.jobs() for pid in job.get("pids", []) if is_ours(pid, ledger.run_dir, proc)]
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    left_s = GRACE_S
    while left_s > 0 and any(is_ours(pid, ledger.run_dir, proc) for pid in pids):
        sleep(0.1)
        left_s -= 0.1
    stubborn = [pid for pid in pids if is_ours(pid, ledger.run_dir, proc)]
    if stubborn:
        return f"asked {len(pids)} workers to stop; still at work on their units: {', '.join(map(str, stubborn))}"
    return f"stopped {len(pids)} workers" if pids else "no worker of it was running on this machine"


def is_ours(pid: int, run_dir: Path, proc: Path = Path("/proc")) -> bool:
    """Return whether the process is a worker of this run: a pid may have become another program's meanwhile."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    plans = f"{run_dir}/submissions/"
    return any(word in ENTRIES for word in words) and any(word.startswith(plans) for word in words)
