"""Following a run on Slurm: bars drawn from committed units; the scheduler is asked at most every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import Plan, plan_path, read_plan
from rag_hpc.launchers.chain import job_lines
from rag_hpc.launchers.ledger import Ledger, Request

POLL_S = 2.0
ASK_S = 30.0


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code and reason."""

    exit_code: int
    reason: str = ""


class _Stopped(Exception):
    """Leaves the bars as they stand."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.reason)
        self.ended = ended


def watch(ledger: Ledger, *, sleep: Callable[[float], None] = time.sleep,
          clock: Callable[[], float] = time.monotonic) -> int:
    """Draw bars until the run is finished (0), stopped by a failure (1), or stopped with work left (3)."""
    from rich.errors import LiveError

    from rag_hpc.launchers.progress import Bars

    try:
        with Bars(ledger.request()) as bars:
            _follow(ledger, bars.poll(ledger), sleep, clock)
    except _Stopped as stopped:
        print(f"run={ledger.name}: {stopped.ended.reason}", file=sys.stderr)
        return stopped.ended.exit_code
    except (KeyboardInterrupt, LiveError):
        print(f"the jobs go on without this window; see: rag-hpc status run={ledger.handle}", file=sys.stderr)
        return 3
    print(f"run={ledger.name}: finished; see: rag-hpc report run={ledger.handle}")
    return 0


def _follow(ledger: Ledger, draw: Callable[[Plan], None], sleep: Callable[[float], None],
            clock: Callable[[], float]) -> None:
    """Return when the run is finished; raise _Stopped when it will not be."""
    closed: set[str] = set()
    asked = clock()
    while True:
        request = ledger.request()  # a gate may have resubmitted
        for plan in planned(ledger, request):
            if plan.stage not in closed:
                draw(plan)
            if (ledger.run_dir / plan.folder / MANIFEST).exists():
                closed.add(plan.stage)
        if closed >= set(request.stages):
            return
        found = stopped(ledger, request)
        if found is None and clock() - asked >= ASK_S:
            asked = clock()
            found = out_of_queue(ledger, request)
        if found is not None:
            raise _Stopped(found)
        sleep(POLL_S)


def planned(ledger: Ledger, request: Request) -> list[Plan]:
    """Return the plans of the submission that are there already, in the order of the stages."""
    paths = [plan_path(ledger.run_dir, request.number, stage) for stage in request.stages]
    return [read_plan(path) for path in paths if path.exists()]


def stopped(ledger: Ledger, request: Request) -> Ended | None:
    """Return how a gate or a user stopped the submission, None when nobody did."""
    for value in ledger.outcomes(request.number).values():
        if value["outcome"] == "stopped":
            return Ended(int(value["exit_code"]), value["reason"])
    if any(job["kind"] == "cancel" for job in ledger.jobs(request.number)):
        return Ended(3, f"cancelled; go on: rag-hpc retry run={ledger.handle}")
    return None


def out_of_queue(ledger: Ledger, request: Request) -> Ended | None:
    """Return Ended when the scheduler says that no job is left, while units are; None when it cannot be asked."""
    queued = [number for number in ledger.submissions() if ledger.jobs(number)]
    last = ledger.request(queued[-1]) if queued else request  # a gate takes a number before it queues its jobs
    if job_lines(ledger, last) or ledger.request().number != request.number:
        return None
    plans = planned(ledger, request)
    if len(plans) == len(request.stages) and all((ledger.run_dir / p.folder / MANIFEST).exists() for p in plans):
        return None
    return Ended(3, f"no job is left in the queue but the run is not finished; see: rag-hpc why run={ledger.handle}")
