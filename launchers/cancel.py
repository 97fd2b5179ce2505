"""`rag-hpc cancel`: stop a run's jobs on Slurm, or its processes on this machine. What is committed stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.arguments import name_of, root_of
from rag_hpc.core.ledger import Ledger, find_run
from rag_hpc.launchers.chain import clear, site_of

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.slurm.client import Slurm

GRACE_S = 15.0
ENTRIES = ("rag_hpc.worker", "torch.distributed.run")


def cancel(arguments: Arguments) -> int:
    """Stop the run's jobs: by scancel on a cluster, by signal here."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    last = ledger.submission()
    if not last.request.on_slurm:  # its workers may end their stage; this stops the launcher from the next
        last.add_job(stage="", kind="cancel", ids=[])
    stopped = cancel_run(ledger)
    print(f"run={ledger.name}: {stopped}; go on: rag-hpc retry run={ledger.handle}")
    return 0


def cancel_run(ledger: Ledger, *, slurm: Slurm | None = None) -> str:
    """Return what was stopped, in words: workers here and the jobs of all submissions, also such as no ledger knows."""
    here = "" if ledger.request().on_slurm else cancel_local(ledger)
    slurm = slurm or site_of(ledger)
    if slurm is None:
        return here
    stopped: list[str] = []
    while found := [job_id for job_id in clear(ledger, slurm) if job_id not in stopped]:
        ledger.submission().add_job(stage="", kind="cancel", ids=found)
        stopped += found  # and again: a gate may have resubmitted meanwhile
    jobs = f"cancelled {len(stopped)} jobs: {', '.join(stopped)}" if stopped else "no job of it was in the queue"
    return f"{here}, {jobs}" if here else jobs


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
