"""A resident group's processes: started under a keeper on this machine or queued on Slurm, looked at, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.log import shown
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, CorruptOutput, IncompleteError, InputError, RagHpcError
from rag_hpc.launchers import resident
from rag_hpc.serve.client import Client
from rag_hpc.serve.places import GROUP, Group, Place
from rag_hpc.slurm.client import connect

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.cluster import ClusterConfig

UP_S = 600.0  # how long the ranks may take to open their shards
KEEPER = "rag_hpc.launchers.keeper"


def start(place: Place, request: Request, group: Group) -> None:
    """Start the ranks on this machine under a keeper, and return when they answer. Raises IncompleteError."""

    def wait(alive: Callable[[], bool]) -> None:
        limit = time.monotonic() + UP_S
        while state_of(place)["state"] not in ("up", "partial"):
            if not alive() or time.monotonic() > limit:
                said = shown(resident.said(place), block=True)
                raise IncompleteError(f"group {place.name} does not come up:\n{said}")
            time.sleep(resident.POLL_S)

    resident.start(place, KEEPER, [], world=group.ranks, request=request, log="keeper.log", wait=wait)


def queue(ledger: Ledger, place: Place, group: Group, cluster: ClusterConfig) -> int:
    """Submit the group as an array of one rank a task, which Slurm and the tasks themselves put back when they end."""
    from rag_hpc.launchers.chain import check_places, check_sites
    from rag_hpc.slurm.scripts import GroupJob, group_script

    if group.ranks > cluster.max_array_size:
        raise ConfigError(f"workers={group.ranks}: a group is one array, of cluster.max_array_size at most")
    check_places(ledger, cluster)
    slurm = connect(cluster.name, cluster.slurm_conf)
    check_sites(["retrieve.search"], cluster, slurm)
    asked = GroupJob(
        run_dir=place.run_dir,
        group=place.name,
        folder=place.folder,
        ranks=group.ranks,
        python=sys.executable,
        environment={name: str(value) for name, value in cluster.env.items()},
    )
    script = group_script(asked, cluster.of("retrieve.search"))
    told = dataclasses.replace(
        group, listens="tcp", interface=cluster.interface, cluster=cluster.name, slurm_conf=cluster.slurm_conf
    )
    job = resident.submit(slurm, script, lambda job: place.write(GROUP, dataclasses.replace(told, job=job)))
    print(f"run={ledger.name}: group {place.name} is queued as job {job}, {group.ranks} ranks")
    print(f"see: rag-hpc serve status run={ledger.handle}   end it: rag-hpc serve down run={ledger.handle}")
    return 0


def state_of(place: Place) -> dict[str, Any]:
    """Return how a group is, as its door says; `state` is down, with a reason, where nothing answers."""
    found: dict[str, Any] = {"group": place.name, "state": "down", "job": ""}
    try:
        group = place.group()
        found["job"] = group.job
        with contextlib.closing(Client(place)) as client:
            return {**found, **client.status()}
    except (RagHpcError, OSError) as error:
        if found["job"]:
            return {**found, **state_of_job(group, place)}
        alive = resident.keeper_pid(place, KEEPER) is not None
        return {**found, "state": "starting" if alive else "down", "reason": str(error)}


def state_of_job(group: Group, place: Place) -> dict[str, Any]:
    """Return the state of a group whose door does not answer, by what Slurm says of its tasks, at most once in 30 s."""
    slurm = connect(group.cluster, group.slurm_conf)
    with private_files():
        tasks = slurm.states([group.job], cache=place.folder / "squeue.json").values()
    if all(task.ended for task in tasks):
        return {"state": "down", "reason": f"its job has ended; run: rag-hpc serve down, then up; see {place.folder}"}
    said = sorted({f"{task.state} {task.reason}".strip() for task in tasks if not task.ended})
    return {"state": "starting", "reason": f"tasks: {', '.join(said)}"}


def end(place: Place) -> None:
    """End one group and remove its folder. Raises ConfigError for one that another machine keeps up."""
    group: Group | None = None
    with contextlib.suppress(FileNotFoundError, InputError, CorruptOutput):
        group = place.group()
    if group is not None and group.job:
        resident.cancel(connect(group.cluster, group.slurm_conf), lambda: [group.job])
    else:
        resident.stop(place, KEEPER)
    with naming_disk(place.folder):
        shutil.rmtree(place.folder)
        with contextlib.suppress(OSError):  # another group is there
            place.folder.parent.rmdir()
