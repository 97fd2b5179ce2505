"""A resident group's processes: started under a keeper on this machine or queued on Slurm, looked at, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.log import shown
from rag_hpc.core.stage import Launch
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ClusterError, ConfigError, CorruptOutput, IncompleteError, InputError, RagHpcError
from rag_hpc.launchers.local import environment
from rag_hpc.serve.client import Client
from rag_hpc.serve.places import GROUP, Group, Place
from rag_hpc.slurm.client import connect

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.cluster import ClusterConfig

UP_S, DOWN_S = 600.0, 40.0  # how long the ranks may take to open their shards, and to end
POLL_S = 0.1
KEEPER_MODULE = "rag_hpc.launchers.keeper"


def start(place: Place, request: Request, group: Group) -> None:
    """Start the ranks on this machine under a keeper, and return when they answer. Raises IncompleteError."""
    command = [sys.executable, "-P", "-m", KEEPER_MODULE, str(place.run_dir), place.name]
    with private_files(), (place.folder / "keeper.log").open("ab") as stream:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=place.folder,
            env=environment(Launch.array, group.ranks, request),
            start_new_session=True,
        )
    limit = time.monotonic() + UP_S
    try:
        while state_of(place)["state"] not in ("up", "partial"):
            if keeper.poll() is not None or time.monotonic() > limit:
                raise IncompleteError(f"group {place.name} does not come up:\n{shown(said(place), block=True)}")
            time.sleep(POLL_S)
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    keeper.returncode = 0  # it outlives this process, which Popen would warn of


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
    # held until the file that it reads names it
    job = slurm.submit(script, args=["--hold"])
    over_tcp = dataclasses.replace(
        group,
        listens="tcp",
        interface=cluster.interface,
        cluster=cluster.name,
        slurm_conf=cluster.slurm_conf,
        job=job,
    )
    try:
        place.write(GROUP, over_tcp)
        slurm.release([job])
    except BaseException:
        slurm.cancel([job])
        raise
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
        alive = keeper_pid(place) is not None
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
        cancel(group, place)
    else:
        stop_keeper(place)
    with naming_disk(place.folder):
        shutil.rmtree(place.folder)
        with contextlib.suppress(OSError):  # another group is there
            place.folder.parent.rmdir()


def cancel(group: Group, place: Place, sleep: Callable[[float], None] = time.sleep) -> None:
    """Cancel the group's job, and return when it has left the queue. Raises ClusterError when it stays."""
    slurm = connect(group.cluster, group.slurm_conf)
    slurm.cancel([group.job])
    left_s = DOWN_S
    while group.job in slurm.queued():
        if left_s <= 0:
            raise ClusterError(f"job {group.job} is cancelled but still in the queue; again: rag-hpc serve down")
        sleep(1.0)
        left_s -= 1.0


def stop_keeper(place: Place, module: str = KEEPER_MODULE, within_s: float = DOWN_S) -> None:
    """End the keeper on this machine, a process of that module, with its children."""
    with contextlib.suppress(FileNotFoundError):
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            raise ConfigError(f"{place.folder} was started on {keeper.host}; end it there")
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + within_s
        pid = keeper_pid(place, module)
        if pid is not None:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        while keeper_pid(place, module) is not None and time.monotonic() < limit:
            time.sleep(POLL_S)


def keeper_pid(place: Place, module: str = KEEPER_MODULE, proc: Path = Path("/proc")) -> int | None:
    """Return the process that keeps up what is at `place` on this machine, None where it does not run."""
    try:
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            return None
        words = (proc / str(keeper.pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, RagHpcError):
        return None
    return keeper.pid if module in words and str(place.run_dir) in words else None


def said(place: Place, num_lines: int = 8) -> str:
    """Return the ends of the logs at a place."""
    ends = []
    for path in sorted(place.folder.glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        ends += [f"==> {path.name} <==", *lines[-num_lines:]]
    return "\n".join(ends)
