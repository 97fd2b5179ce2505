"""A gateway as a job of Slurm: queued, looked at from elsewhere, and ended."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rag_hpc.core.trust import private_files
from rag_hpc.errors import ClusterError, RagHpcError
from rag_hpc.serve.gateway.places import ASKED, Asked, Doors, GatewayPlace
from rag_hpc.slurm.client import connect
from rag_hpc.slurm.scripts import GatewayJob, gateway_script

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Ledger
    from rag_hpc.slurm.cluster import ClusterConfig

STAGE = "retrieve.search"  # whose resources a gateway asks for, as a group does
DOWN_S, ASK_S = 60.0, 5.0


def queue(ledger: Ledger, place: GatewayPlace, asked: Asked, cluster: ClusterConfig) -> str:
    """Submit the gateway and return its job's id. Raises ClusterError and ConfigError, and nothing stays queued."""
    from rag_hpc.launchers.chain import check_places, check_sites

    check_places(ledger, cluster)
    slurm = connect(cluster.name, cluster.slurm_conf)
    check_sites([STAGE], cluster, slurm)
    job = GatewayJob(
        run_dir=place.run_dir,
        gateway=place.name,
        folder=place.folder,
        python=sys.executable,
        environment={name: str(value) for name, value in cluster.env.items()},
    )
    # held until the file that it reads names it
    number = slurm.submit(gateway_script(job, cluster.of(STAGE)), args=["--hold"])
    told = dataclasses.replace(
        asked, interface=cluster.interface, job=number, cluster=cluster.name, slurm_conf=cluster.slurm_conf
    )
    try:
        place.write(ASKED, told)
        slurm.release([number])
    except BaseException:
        slurm.cancel([number])
        raise
    return number


def state_of(place: GatewayPlace, asked: Asked) -> dict[str, Any]:
    """Return how a gateway is: as it says itself where its port listens on its node's address, else as Slurm says of
    its job, asked at most once in 30 s, and its keeper by leaving the file of its doors."""
    found: dict[str, Any] = {"gateway": place.name, "state": "down", "job": asked.job}
    slurm = connect(asked.cluster, asked.slurm_conf)
    with private_files():
        job = slurm.states([asked.job], cache=place.folder / "squeue.json")[asked.job]
    if job.ended:
        return {**found, "reason": f"its job has ended; run: rag-hpc serve down, then gateway; see {place.folder}"}
    said = f"job {asked.job}: {job.state} {job.reason}".strip()
    try:
        doors = place.doors()
    except (OSError, RagHpcError):
        return {**found, "state": "starting", "reason": said}
    if asked.settings.get("listen") == "node":
        return {**found, **answer_of(doors)}
    running = job.state == "RUNNING"
    return {**found, "state": "up", "doors": doors} if running else {**found, "state": "starting", "reason": said}


def answer_of(doors: Doors) -> dict[str, Any]:
    """Return what a gateway says of itself at its port."""
    import httpx

    try:
        ready = httpx.get(f"http://{doors.address}:{doors.port}/readyz", timeout=ASK_S, trust_env=False)
        told = ready.json()
        reason = "" if ready.status_code == 200 else told["error"]["message"]
        return {"state": "up", "doors": doors, "groups": told.get("coverage", ""), "reason": reason}
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return {"state": "starting", "reason": f"{doors.host} does not answer: {error}"}


def cancel(asked: Asked, sleep: Callable[[float], None] = time.sleep) -> None:
    """Cancel the gateway's job, and return when it has left the queue. Raises ClusterError when it stays."""
    slurm = connect(asked.cluster, asked.slurm_conf)
    slurm.cancel([asked.job])
    left_s = DOWN_S
    while asked.job in slurm.queued():
        if left_s <= 0:
            raise ClusterError(f"job {asked.job} is cancelled but still in the queue; again: rag-hpc serve down")
        sleep(1.0)
        left_s -= 1.0
