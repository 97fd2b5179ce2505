"""A fleet's replicas: started under an attendant on this machine, or a job of Slurm each; looked at, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.log import shown
from rag_hpc.core.trust import private_files
from rag_hpc.errors import IncompleteError
from rag_hpc.launchers import resident
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.serve import replicas
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import GUESSED_S, Job, Replicas, Roll, Scaled, State
from rag_hpc.slurm.client import connect
from rag_hpc.slurm.cluster import ClusterConfig
from rag_hpc.slurm.scripts import ReplicaJob, replica_script

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.client import Slurm

STAGE = "generate"  # whose resources a replica asks for
POLL_S = 0.2
DRAINED = "told to drain"  # why a fleet rests that no request starts again
TRIES = 3  # of one process to submit the gone job of a slot
ATTENDANT = "rag_hpc.launchers.attendant"


def start(place: Place, request: Request, asked: Replicas) -> None:
    """Start all replicas on this machine under an attendant, and return when they are ready. Raises IncompleteError."""
    names = [replicas.name_of(slot, 0) for slot in range(asked.num)]
    place.write(replicas.REPLICAS, asked)
    resident.start(
        place,
        ATTENDANT,
        names,
        world=asked.num,
        request=request,
        log="attendant.log",
        wait=lambda alive: wait_ready(place, asked, alive),
    )


def wait_ready(place: Place, asked: Replicas, alive: Callable[[], bool]) -> None:
    """Return when as many replicas of this machine as are asked for are ready, and no others. Raises IncompleteError.

    alive: tells whether their attendant is.
    """
    limit = time.monotonic() + asked.generator.get("vllm", {}).get("start_timeout_s", 10 * GUESSED_S)
    roll = Roll(place)
    while sorted((replicas.slot_of(one.name)[0], one.state) for one in roll.live()) != [
        (slot, State.ready.value) for slot in range(replicas.upheld(place, asked))
    ]:
        if not alive() or time.monotonic() > limit:
            raise IncompleteError(f"replicas {place.name} do not come up:\n{shown(resident.said(place), block=True)}")
        time.sleep(POLL_S)


def queue(ledger: Ledger, place: Place, asked: Replicas, cluster: ClusterConfig) -> list[str]:
    """Submit each replica as a job of its own; return their ids. Raises ClusterError, and nothing stays queued."""
    from rag_hpc.launchers.chain import check_places, check_sites

    check_places(ledger, cluster)
    slurm = connect(cluster.name, cluster.slurm_conf)
    check_sites([STAGE], cluster, slurm)
    told = dataclasses.replace(asked, listens="tcp", interface=cluster.interface, site=to_plain(cluster))
    place.write(replicas.REPLICAS, told)
    try:
        return submit_absent(place, range(asked.num), slurm)
    except BaseException:
        slurm.cancel([job.id for job in replicas.jobs_of(place)])
        raise


def submit(place: Place, slot: int, generation: int, slurm: Slurm | None = None) -> str:
    """Submit the job of one replica and return its id."""
    asked = replicas.asked(place)
    cluster: ClusterConfig = from_plain(ClusterConfig, asked.site)
    slurm = slurm or connect(cluster.name, cluster.slurm_conf)
    job = ReplicaJob(
        run_dir=place.run_dir,
        fleet=place.name,
        folder=place.folder,
        name=replicas.name_of(slot, generation),
        python=sys.executable,
        submitted_unix=time.time(),
        environment={name: str(value) for name, value in cluster.env.items()},
    )
    script = replica_script(job, cluster.of(STAGE))
    return resident.submit(
        slurm, script, lambda number: replicas.note_job(place, Job(id=number, slot=slot, generation=generation))
    )


def resize(place: Place, num: int) -> list[str]:
    """Ask for another number of replicas of those that are up, and return the ids of new jobs.

    Their attendants let go of the highest slots, which drain. On this machine it returns when all are as asked for.
    Raises ClusterError and IncompleteError; the same again then makes up for what is missing.
    """
    was = replicas.asked(place)
    held, now = replicas.upheld(place, was), dataclasses.replace(was, num=num, resting="")
    place.write(replicas.REPLICAS, now)
    if not was.site:
        wait_ready(place, now, lambda: resident.keeper_pid(place, ATTENDANT) is not None)
        return []
    return _have(place, now, held)


def scale(place: Place, num: int) -> list[str]:
    """Keep up as many replicas as the load needs, and return the ids of new jobs. Raises ClusterError."""
    asked = replicas.asked(place)
    held = replicas.upheld(place, asked)
    place.write(replicas.SCALED, Scaled(num=num))
    return _have(place, asked, held, patient=False) if asked.site else []


def _have(place: Place, asked: Replicas, held: int, *, patient: bool = True) -> list[str]:
    """Have the jobs of as many replicas as are kept up now, which were `held`; return the ids of new ones."""
    cluster: ClusterConfig = from_plain(ClusterConfig, asked.site)
    slurm, num = connect(cluster.name, cluster.slurm_conf), replicas.upheld(place, asked)
    _cancel_waiting(slurm, [job.id for job in replicas.jobs_of(place) if job.slot >= num])
    # a job of a slot that was let go of may drain yet: another takes its place in any case
    return submit_absent(place, sorted({*range(held, num), *absent(place, slurm, patient=patient)}), slurm)


def drain(place: Place) -> None:
    """Let all replicas end once they have answered what they were asked; `resize` starts them again.

    Raises ClusterError when jobs that wait in the queue could not be cancelled; those then end when they start.
    """
    replicas.rest(place, DRAINED)
    if asked := replicas.asked(place).site:
        cluster: ClusterConfig = from_plain(ClusterConfig, asked)
        _cancel_waiting(connect(cluster.name, cluster.slurm_conf), [job.id for job in replicas.jobs_of(place)])


def _cancel_waiting(slurm: Slurm, ids: list[str]) -> None:
    states = slurm.states(ids)
    slurm.cancel([name for name in ids if states[name].state == "PENDING"])  # those that run drain by themselves


def absent(place: Place, slurm: Slurm | None = None, *, patient: bool = True) -> list[int]:
    """Return the slots that are asked for and have no job in the queue. Raises ClusterError, at once unless patient."""
    asked = replicas.asked(place)
    cluster: ClusterConfig = from_plain(ClusterConfig, asked.site)
    queued = (slurm or connect(cluster.name, cluster.slurm_conf)).queued(patient=patient)
    held = {job.slot for job in replicas.jobs_of(place) if job.id in queued}
    return [slot for slot in range(replicas.wanted(place)) if slot not in held]


def wake(place: Place, tries: Counter[int]) -> list[str]:
    """Start again what a request found nobody of: a fleet that rests, or whose jobs are gone; return the ids of jobs.

    tries: how often the caller did so, by slot. Raises ClusterError at once, and the same again then goes on.
    """
    asked = replicas.asked(place)
    if asked.resting == DRAINED:
        return []
    if asked.resting:
        place.write(replicas.REPLICAS, dataclasses.replace(asked, resting=""))
        tries.clear()
    if not asked.site:  # their attendant on this machine sees it
        return []
    gone = [slot for slot in absent(place, patient=False) if tries[slot] < TRIES]
    tries.update(gone)
    return submit_absent(place, gone)


def submit_absent(place: Place, slots: Sequence[int], slurm: Slurm | None = None) -> list[str]:
    """Submit a new job for each slot, unless somebody else just did, and return their ids."""
    jobs, made = replicas.jobs_of(place), []
    for slot in slots:
        generation = 1 + max((job.generation for job in jobs if job.slot == slot), default=-1)
        name = replicas.name_of(slot, generation)
        if replicas.claim(place, name):
            try:
                made.append(submit(place, slot, generation, slurm))
            except BaseException:
                replicas.unclaim(place, name)
                raise
    return made


def state_of(place: Place) -> dict[str, Any]:
    """Return how the replicas are: by slot, as their notices say, and what Slurm says of the jobs, once in 30 s."""
    asked = replicas.asked(place)
    live, num = Roll(place).live(), replicas.upheld(place, asked)
    rows = [
        {"name": one.name, "state": one.state, "host": one.host, "pid": one.pid, "job": one.job, "ends": one.ends_unix}
        for one in live
    ]
    found: dict[str, Any] = {"replicas": place.name, "asked": num, "live": rows}
    slots = {replicas.slot_of(one.name)[0] for one in live if one.state == State.ready.value}
    ready = len(slots & {*range(num)})
    if jobs := replicas.jobs_of(place):
        found["jobs"] = waiting(place, asked, [job.id for job in jobs])
    alive = resident.keeper_pid(place, ATTENDANT) is not None or bool(found.get("jobs"))
    if asked.resting and (asked.site or alive):
        return {**found, "ready": ready, "state": "resting", "reason": asked.resting}
    state = "up" if ready == num else "partial" if ready else "starting" if alive else "down"
    return {**found, "ready": ready, "state": state}


def waiting(place: Place, asked: Replicas, ids: list[str]) -> Mapping[str, str]:
    """Return what Slurm says of the jobs that have not ended."""
    cluster: ClusterConfig = from_plain(ClusterConfig, asked.site)
    slurm = connect(cluster.name, cluster.slurm_conf)
    with private_files():
        states = slurm.states(ids, cache=place.folder / "squeue.json")
    return {name: f"{one.state} {one.reason}".strip() for name, one in states.items() if not one.ended}


def end(place: Place) -> None:
    """Drain and end all replicas, and remove their folder. Raises ClusterError for jobs that stay in the queue."""
    if replicas.jobs_of(place):
        cluster: ClusterConfig = from_plain(ClusterConfig, replicas.asked(place).site)
        resident.cancel(connect(cluster.name, cluster.slurm_conf), lambda: [job.id for job in replicas.jobs_of(place)])
    else:
        resident.stop(place, ATTENDANT)
    with naming_disk(place.folder):
        shutil.rmtree(place.folder)
        with contextlib.suppress(OSError):  # another fleet's are there
            place.folder.parent.rmdir()
