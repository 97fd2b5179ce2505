"""Following a run on Slurm: bars drawn from committed units; the scheduler is asked at most every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rag_hpc.core import manifest
from rag_hpc.core.ledger import Ledger, Submission
from rag_hpc.core.log import shown
from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import Plan, read_plan
from rag_hpc.launchers.chain import job_lines
from rag_hpc.launchers.progress import Bars
from rag_hpc.launchers.rows import print_in_and_out

POLL_S = 2.0
ASK_S = 30.0


class Ended(Exception):
    """How a run ended that is not finished; raised, it leaves the bars as they stand."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


def watch(
    ledger: Ledger, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> int:
    """Draw bars until the run is finished (0), stopped by a failure (1), or stopped with work left (3)."""
    from rich.errors import LiveError

    try:
        with Bars() as bars:
            _follow(ledger, bars, sleep, clock)
    except Ended as ended:
        print(f"run={ledger.name}: {shown(str(ended))}", file=sys.stderr)
        return ended.exit_code
    except (KeyboardInterrupt, LiveError):
        print(f"the jobs go on without this window; see: rag-hpc status run={ledger.handle}", file=sys.stderr)
        return 3
    print(f"run={ledger.name}: finished; see: rag-hpc report run={ledger.handle}")
    print_in_and_out(ledger)
    return 0


def _follow(ledger: Ledger, bars: Bars, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
    """Return when the run is finished; raise Ended when it will not be."""
    closed: set[str] = set()
    draw = bars.poll(ledger.run_dir)
    asked = clock()
    while True:
        submission = ledger.submission()  # a gate may have resubmitted
        for plan in planned(submission):
            if plan.stage in closed:
                continue
            if (ledger.run_dir / plan.folder / MANIFEST).exists():
                closed.add(plan.stage)
                bars.close(manifest.load(ledger.run_dir / plan.folder))
            else:
                draw(plan)
        if closed >= set(submission.request.stages):
            return
        if closed.issuperset(plan.stage for plan in planned(submission)):
            bars.planning()
        found = stopped(submission)
        if found is None and clock() - asked >= ASK_S:
            asked = clock()
            found = out_of_queue(submission)
        if found is not None:
            raise found
        sleep(POLL_S)


def planned(submission: Submission) -> list[Plan]:
    """Return the plans of the submission that are there already, in the order of the stages."""
    paths = [submission.plan_path(stage) for stage in submission.request.stages]
    return [read_plan(path) for path in paths if path.exists()]


def never_starts(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the job that holds all that is queued and will never start; None while any other job may go on."""
    if all(line["outlook"] in ("never", "follows") for line in lines):
        return next((line for line in lines if line["outlook"] == "never"), None)
    return None


def stopped(submission: Submission) -> Ended | None:
    """Return how a gate or a user stopped the submission, None when nobody did."""
    for value in submission.outcomes().values():
        if value["outcome"] == "stopped":
            return Ended(int(value["exit_code"]), value["reason"])
    if submission.is_cancelled():
        return Ended(3, f"cancelled; go on: rag-hpc retry run={submission.ledger.handle}")
    return None


def out_of_queue(submission: Submission) -> Ended | None:
    """Return Ended when the scheduler says that no job is left that could start; None when it cannot be asked."""
    ledger = submission.ledger
    queued = [number for number in ledger.submissions() if ledger.jobs(number)]
    last = ledger.submission(queued[-1]) if queued else submission  # a gate takes a number before it queues its jobs
    lines = [line for line in job_lines(last) if line["outlook"] != "superseded"]
    if stuck := never_starts(lines):
        return Ended(3, f"{stuck['stage']}: {stuck['reason']}")
    if lines or ledger.request().number != submission.number:
        return None
    plans = planned(submission)
    if len(plans) == len(submission.request.stages) and all(
        (ledger.run_dir / p.folder / MANIFEST).exists() for p in plans
    ):
        return None
    return Ended(3, f"no job is left in the queue but the run is not finished; see: rag-hpc why run={ledger.handle}")
