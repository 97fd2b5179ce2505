"""`python -m rag_hpc.launchers.gatekeeper RUN_DIR NAME`: keep a gateway up, as its child, here or in its job.

Exit codes: 0 told to stop, 1 it never lived long, 2 it cannot run as configured, 3 the walltime is near.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rag_hpc.core.job import JobEnv
from rag_hpc.core.log import configure
from rag_hpc.core.trust import check_run
from rag_hpc.errors import RagHpcError
from rag_hpc.launchers.keeper import DRAIN_S, POLL_S, Rank
from rag_hpc.launchers.replicas import wake
from rag_hpc.serve import replicas
from rag_hpc.serve.gateway.places import DOORS, GatewayPlace
from rag_hpc.serve.places import KEEPER, KeptBy, Place
from rag_hpc.serve.replicas import replicas_place

log = logging.getLogger(__name__)
LOOK_S, AGAIN_S = 1.0, 30.0  # between two looks for a wish, and after one that could not be fulfilled


class Waker:
    """Starts a fleet again that a request of the gateway found nobody of: its process here may submit jobs."""

    def __init__(self, place: Place) -> None:
        self._place, self._due, self._tries = place, 0.0, Counter[int]()

    def tend(self, now: float) -> None:
        """Look whether replicas are wished for. now: on time.monotonic()."""
        if now < self._due:
            return
        self._due = now + LOOK_S
        try:
            if replicas.wished(self._place):
                for job in wake(self._place, self._tries):
                    log.info("fleet %s is started again: job %s", self._place.name, job)
                replicas.fulfilled(self._place)
        except (RagHpcError, OSError) as error:
            self._due = now + AGAIN_S
            log.warning("fleet %s: not started again, next try in %.0f s: %s", self._place.name, AGAIN_S, error)


def keep(place: GatewayPlace, deadline: float | None) -> int:
    """Keep the gateway up until a signal or the deadline (time.monotonic); return the exit code."""
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)
    command = [sys.executable, "-P", "-m", "rag_hpc.serve.gateway.main", str(place.run_dir), place.name]
    (place.folder / DOORS).unlink(missing_ok=True)  # of before, on a node that died
    gateway = Rank(command, place.folder / "gateway.log")
    fleet = place.asked().settings["fleet"]
    waker = Waker(replicas_place(place.run_dir, fleet)) if fleet else None
    try:
        while not stopped and (deadline is None or time.monotonic() < deadline):
            gateway.tend()
            if waker:
                waker.tend(time.monotonic())
            time.sleep(POLL_S)
    finally:
        for number, wait_s in ((signal.SIGTERM, DRAIN_S), (signal.SIGKILL, 5.0)):
            gateway.tell(number)
            gateway.wait(time.monotonic() + wait_s)
        (place.folder / DOORS).unlink(missing_ok=True)
    return 0 if stopped else 3


def main(argv: Sequence[str] | None = None) -> int:
    """Keep a gateway up; return the process's exit code."""
    started = time.monotonic()
    run_dir, name = sys.argv[1:] if argv is None else argv
    configure(prefix=f"gatekeeper@{os.uname().nodename}")
    try:
        check_run(Path(run_dir))
        os.umask(0o077)
        place = GatewayPlace(Path(run_dir), name)
        if not place.asked().job:
            place.write(KEEPER, KeptBy(host=os.uname().nodename, pid=os.getpid()))
        return keep(place, JobEnv.from_env().deadline(started))
    except RagHpcError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
