"""`python -m rag_hpc.launchers.keeper RUN_DIR GROUP RANK...`: keep ranks of a resident group up, as its children.

On this machine one keeper has all ranks; on Slurm each array task is one with its own. A rank that ends is started
again, after a pause that grows. Exit codes: 0 told to stop, 1 a rank never lived long, 2 it cannot run as configured, 3
the walltime is near.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rag_hpc.core.job import JobEnv
from rag_hpc.core.log import configure
from rag_hpc.core.trust import check_run
from rag_hpc.errors import ConfigError, InputError, RagHpcError
from rag_hpc.serve.places import KEEPER, KeptBy, Place

log = logging.getLogger(__name__)
POLL_S = 0.1
PAUSES_S = (0.2, 1.0, 5.0, 15.0, 30.0)  # before a rank that did not live long is started again
STEADY_S = 60.0  # a rank that lived this long is started again at once
TRIES = 3  # of a rank that never lived so long
DRAIN_S = 15.0  # for rank 0 to answer what waits


class Rank:
    """One rank's process, made again when it has ended."""

    def __init__(self, command: Sequence[str], log_path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._command, self._log, self._clock = [*command], log_path, clock
        self._num_quick, self._started, self._due, self._was_steady = 0, 0.0, 0.0, False
        self.process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Start the process when it is due. Raises ConfigError when it ended because it cannot run as configured, and
        InputError when it never lived long."""
        now = self._clock()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            if code == ConfigError.exit_code:
                raise ConfigError(f"{self._log}: a rank cannot run as configured; its last lines say why")
            steady = now - self._started > STEADY_S
            self._num_quick, self._was_steady = 0 if steady else self._num_quick + 1, steady or self._was_steady
            if self._num_quick >= TRIES and not self._was_steady:
                raise InputError(f"{self._log}: a rank ended {TRIES} times soon after its start; its lines say why")
            pause_s = PAUSES_S[min(self._num_quick, len(PAUSES_S)) - 1] if self._num_quick else 0.0
            log.warning("%s: its rank ended with %d; again in %.1f s", self._log.stem, code, pause_s)
            self.process, self._due = None, now + pause_s
        if now >= self._due:
            self._started = now
            with self._log.open("ab") as stream:
                self.process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=self._log.parent
                )

    def tell(self, number: int) -> None:
        """Send the process a signal, also one that sleeps."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)

    def wait(self, until: float) -> None:
        """Return when the process has ended, or at `until`, on time.monotonic()."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s: process %d does not stop", self._log.stem, self.process.pid)


class Keeper:
    """The ranks that this process keeps up."""

    def __init__(self, place: Place, ranks: Sequence[int]) -> None:
        entry = [sys.executable, "-P", "-m", "rag_hpc.serve.rank", str(place.run_dir), place.name]
        self.ranks = {rank: Rank([*entry, str(rank)], place.folder / f"rank-{rank}.log") for rank in ranks}
        self._stopped = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopped = True

    def keep(self, deadline: float | None) -> int:
        """Keep the ranks up until a signal or the deadline (time.monotonic); return the exit code."""
        try:
            while not self._stopped and (deadline is None or time.monotonic() < deadline):
                for rank in self.ranks.values():
                    rank.tend()
                time.sleep(POLL_S)
        finally:
            self.stop()
        return 0 if self._stopped else 3

    def stop(self) -> None:
        """End the ranks: rank 0 first, which answers what waits with the others' help."""
        for number, wait_s in ((signal.SIGTERM, DRAIN_S), (signal.SIGKILL, 5.0)):
            for ranks in ([self.ranks[n] for n in self.ranks if n == 0], [self.ranks[n] for n in self.ranks if n]):
                for rank in ranks:
                    rank.tell(number)
                until = time.monotonic() + wait_s
                for rank in ranks:
                    rank.wait(until)


def main(argv: Sequence[str] | None = None) -> int:
    """Keep ranks up; return the process's exit code."""
    started = time.monotonic()
    run_dir, name, *numbers = sys.argv[1:] if argv is None else argv
    configure(prefix=f"keeper@{os.uname().nodename}")
    try:
        check_run(Path(run_dir))
        os.umask(0o077)
        place = Place(Path(run_dir), name)
        group = place.group()
        ranks = [int(number) for number in numbers] or list(range(group.ranks))
        keeper = Keeper(place, ranks)
        if not group.job:
            place.write(KEEPER, KeptBy(host=os.uname().nodename, pid=os.getpid()))
        return keeper.keep(JobEnv.from_env().deadline(started))
    except RagHpcError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
