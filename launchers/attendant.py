"""`python -m rag_hpc.launchers.attendant RUN_DIR FLEET NAME...`: keep replicas of a fleet up, as its children.

On this machine one attendant has all replicas; on Slurm each job is one with its own, and hands over before its
walltime ends: it submits a successor as early as starts are known to take, one hand-over earlier for each lower slot
whose walltime ends with its own, drains its replica once the successor gives tokens, and is gone. A successor that is
late does not keep it, nor does it leave early while it is the last that answers. How many are asked for may change
meanwhile: those of the highest slots are drained, and all where nobody asked any for long. The first that is ready
decides for the fleet: how many its load needs, and that a job which was killed whole, with its script, is submitted
anew. Exit codes: 0 told to stop, handed over or no longer
asked for, 1 the replica never lived long, 2 it cannot run as configured, 3 the walltime is near.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rag_hpc.core.job import JobEnv, variable
from rag_hpc.core.log import configure
from rag_hpc.core.trust import check_run
from rag_hpc.errors import ClusterError, RagHpcError
from rag_hpc.launchers.keeper import Rank
from rag_hpc.launchers.replicas import TRIES, absent, scale, submit, submit_absent
from rag_hpc.launchers.scale import Scaler
from rag_hpc.serve import replicas
from rag_hpc.serve.places import KEEPER, KeptBy, Place
from rag_hpc.serve.replicas import Living, Load, Notice, ReplicaConfig, Roll, State, slot_of

log = logging.getLogger(__name__)
POLL_S = 0.2
SLACK_S = 5.0  # for a drain, beyond what it may take
AGAIN_S = 30.0  # between two tries to submit a successor, and two looks whether a job is gone
SUBMITTED = variable("submitted_unix")
LOOK_S = 1.0  # between two looks how many replicas are asked for


class Attendant:
    """The replicas that this process keeps up."""

    def __init__(
        self, place: Place, names: Sequence[str], deadline: float | None, *, begun: float = 0.0, in_job: bool
    ) -> None:
        """begun, deadline: on time.monotonic()."""
        self.place, self._deadline, self._in_job = place, deadline, in_job
        self.children = {name: self._child(name) for name in names}
        self._leaving: dict[str, tuple[Rank, float]] = {}  # no longer asked for, and until when they may drain
        self._look = self._mend_due = self._rest_due = self._scale_due = 0.0
        self._tries: Counter[int] = Counter()  # of a slot
        self._config = ReplicaConfig(**replicas.asked(place).settings)
        self._scaler, self._loads = Scaler(self._config), Living(place, Load)
        self._roll, self._stopped, self._due, self._begun = Roll(place), False, 0.0, begun
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._on_signal)

    def _child(self, name: str) -> Rank:
        entry = [sys.executable, "-P", "-m", "rag_hpc.serve.replica", str(self.place.run_dir), self.place.name, name]
        return Rank(entry, self.place.folder / f"replica-{name}.log")

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopped = True

    def keep(self, clock: Callable[[], float] = time.monotonic) -> int:
        """Keep the replicas up until a signal, a successor or the deadline; return the exit code."""
        try:
            while not self._stopped and not self._succeeded():
                now = clock()
                if self._deadline is not None and now > self._drains_at(self._deadline):
                    return 0 if self._successor_is_asked() else 3
                if not self._follow_number(now):
                    return 0
                self._rest(now)
                self._scale(now)
                self._ask_successor(now)
                self._mend(now)
                for child in self.children.values():
                    child.tend()
                os.environ.pop(SUBMITTED, None)  # who is started later did not wait in the queue
                time.sleep(POLL_S)
            return 0
        finally:
            self.stop()

    def _drains_at(self, deadline: float) -> float:
        """Return when the drain has to begin: at the last moment where no other will be there to answer."""
        ready = self._ready()
        own = next((one for one in ready if one.name in self.children), None)
        last = own and not any(_outlives(one, own) for one in ready)
        return deadline - (self._config.drain_s if last else self._drain_s)

    def stop(self) -> None:
        """Drain the replicas and end them."""
        children = [*self.children.values(), *(child for child, _ in self._leaving.values())]
        for number, wait_s in ((signal.SIGTERM, self._drain_s), (signal.SIGKILL, 5.0)):
            for child in children:
                child.tell(number)
            until = time.monotonic() + wait_s
            for child in children:
                child.wait(until)

    def _ready(self) -> list[Notice]:
        return [one for one in self._roll.live() if one.state == State.ready.value]

    @property
    def _drain_s(self) -> float:
        return self._config.drain_s + SLACK_S

    # ---- how many

    def _follow_number(self, now: float) -> bool:
        """Take up replicas that are asked for now and let go of the others; return False when this job's is not."""
        if now < self._look:
            return True
        self._look = now + LOOK_S
        try:
            num = replicas.wanted(self.place)
        except (RagHpcError, OSError) as error:  # `down` removes it, and ends this process
            log.debug("how many replicas are asked for is not known: %s", error)
            return True
        if self._in_job:
            return any(slot_of(name)[0] < num for name in self.children)
        for name, (child, until) in list(self._leaving.items()):
            if child.process is None or child.process.poll() is not None:
                del self._leaving[name]
            elif now > until:
                child.tell(signal.SIGKILL)
        for name in [name for name in self.children if slot_of(name)[0] >= num]:
            child = self.children.pop(name)
            child.tell(signal.SIGTERM)
            self._leaving[name] = child, now + self._drain_s
        for name in (replicas.name_of(slot, 0) for slot in range(num)):
            if name not in self._leaving:
                self.children.setdefault(name, self._child(name))
        return True

    def _mend(self, now: float) -> None:
        """Submit anew jobs that were killed whole, which nobody puts back into the queue."""
        if not self._in_job or now < self._mend_due:
            return
        self._mend_due = now + AGAIN_S
        if not self._decides():
            return
        try:
            gone = [slot for slot in absent(self.place, patient=False) if self._tries[slot] < TRIES]
            self._tries.update(gone)
            for job in submit_absent(self.place, gone):
                log.warning("job %s takes the place of one that was killed", job)
        except (RagHpcError, OSError) as error:
            log.warning("whether jobs are gone is not known, again in %.0f s: %s", AGAIN_S, error)

    def _rest(self, now: float) -> None:
        """Let go of all replicas, jobs too, when nobody asked any for long."""
        if not self._config.idle_s or now < self._rest_due:
            return
        self._rest_due = now + LOOK_S
        if not self._decides() or min((one.idle_s for one in self._roll.live()), default=0.0) < self._config.idle_s:
            return
        try:
            replicas.rest(self.place, f"no request for {self._config.idle_s:g} s")
        except (RagHpcError, OSError) as error:
            log.warning("the fleet cannot be let go of: %s", error)

    def _scale(self, now: float) -> None:
        """Have as many replicas as what is open at the gateways needs; what none of them tells is not known."""
        if not self._config.max_replicas or now < self._scale_due:
            return
        self._scale_due = now + LOOK_S
        if not self._decides() or not (loads := self._loads.live()):
            return
        ongoing = sum(one.ongoing for one in loads)
        try:
            asked = replicas.asked(self.place)
            held = replicas.upheld(self.place, asked)
            num = self._scaler.wanted(now, ongoing, held, asked.num)
            if num == held or asked.resting:
                return
            jobs = scale(self.place, num)
            log.info("%d replicas in place of %d, with %d requests open; new jobs: %s", num, held, ongoing, jobs)
        except (RagHpcError, OSError) as error:
            log.warning("the fleet cannot be scaled: %s", error)

    def _decides(self) -> bool:
        """Return whether this process decides for the fleet: it keeps up the first replica that is ready."""
        ready = self._ready()
        return bool(ready) and ready[0].name in self.children

    # ---- the successor of a job

    def _ask_successor(self, now: float) -> None:
        """Submit the next job of this slot when it is time to."""
        if self._deadline is None or not self._in_job or now < self._due or self._successor_is_asked():
            return
        ((name,), ((slot, generation),)) = list(self.children), [slot_of(name) for name in self.children]
        ready = self._ready()
        own = next((one for one in ready if one.name == name), None)
        if own is None:
            return
        queue_s, start_s = replicas.lead_s(self.place)
        takes_s = start_s + self._drain_s
        alike = [one for one in ready if abs(one.ends_unix - own.ends_unix) < takes_s / 2]
        lower = {slot_of(one.name)[0] for one in alike if slot_of(one.name)[0] < slot}
        # never in the first half: else one whose start takes longer than it lives would be followed by a crowd
        if now < max(self._deadline - queue_s - takes_s * (1 + len(lower)), (self._begun + self._deadline) / 2):
            return
        try:
            submit(self.place, slot, generation + 1)
        except ClusterError as error:
            log.warning("no successor could be submitted, again in %.0f s: %s", AGAIN_S, error)
            self._due = now + AGAIN_S

    def _successor_is_asked(self) -> bool:
        later = [(job.slot, job.generation) for job in replicas.jobs_of(self.place)] if self._in_job else []
        return any(self._follows(found) for found in later)

    def _succeeded(self) -> bool:
        """Return whether a successor answers."""
        if not self._in_job:
            return False
        return any(self._follows(slot_of(one.name)) for one in self._ready())

    def _follows(self, found: tuple[int, int]) -> bool:
        return any(found[0] == slot and found[1] > generation for slot, generation in map(slot_of, self.children))


def _outlives(one: Notice, other: Notice) -> bool:
    """Return whether a replica has the longer walltime; of two alike one has, as both see it."""
    return (one.ends_unix == 0, one.ends_unix, one.name) > (other.ends_unix == 0, other.ends_unix, other.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Keep replicas up; return the process's exit code."""
    started = time.monotonic()
    run_dir, fleet, *names = sys.argv[1:] if argv is None else argv
    configure(prefix=f"attendant@{os.uname().nodename}")
    try:
        check_run(Path(run_dir))
        os.umask(0o077)
        place = replicas.replicas_place(Path(run_dir), fleet)
        in_job = "SLURM_JOB_ID" in os.environ
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
            os.environ.pop(SUBMITTED, None)  # the job was put back into the queue, and ran meanwhile
        attendant = Attendant(place, names, JobEnv.from_env().deadline(started), begun=started, in_job=in_job)
        if not in_job:
            place.write(KEEPER, KeptBy(host=os.uname().nodename, pid=os.getpid()))
        return attendant.keep()
    except RagHpcError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
