"""A gateway as a job of Slurm: queued, and looked at from elsewhere."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from rag_hpc.core.trust import private_files
from rag_hpc.errors import RagHpcError
from rag_hpc.launchers import resident
from rag_hpc.serve.gateway.places import ASKED, Asked, Doors, GatewayPlace
from rag_hpc.slurm.client import connect
from rag_hpc.slurm.scripts import GatewayJob, gateway_script

if TYPE_CHECKING:
    from rag_hpc.core.ledger import Ledger
    from rag_hpc.slurm.cluster import ClusterConfig

STAGE = "retrieve.search"  # whose resources a gateway asks for, as a group does
ASK_S = 5.0


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
    told = dataclasses.replace(asked, interface=cluster.interface, cluster=cluster.name, slurm_conf=cluster.slurm_conf)
    script = gateway_script(job, cluster.of(STAGE))
    return resident.submit(slurm, script, lambda job: place.write(ASKED, dataclasses.replace(told, job=job)))


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
