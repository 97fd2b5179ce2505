"""`rag-hpc serve gateway`: a gateway under a keeper on this machine, or in a job of Slurm; looked at, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.log import shown
from rag_hpc.errors import ConfigError, IncompleteError, InputError, MissingDependency, RagHpcError, did_you_mean
from rag_hpc.launchers import gatejob, resident
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.serve.ask import check_pipeline, generator_of
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.gateway import traces
from rag_hpc.serve.gateway.config import GatewayConfig, candidates_of
from rag_hpc.serve.gateway.places import ASKED, Asked, Doors, GatewayPlace
from rag_hpc.serve.replicas import replicas_place
from rag_hpc.slurm.client import connect

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.cluster import ClusterConfig

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "jwt": "PyJWT", "structlog": "structlog"}
PACKAGES["prometheus_client"] = "prometheus-client"
UP_S = 120.0
KEEPER = "rag_hpc.launchers.gatekeeper"


def up(ledger: Ledger, place: GatewayPlace, arguments: Arguments, cluster: ClusterConfig | None = None) -> int:
    """Start a gateway on this machine under a keeper, and wait until it answers; on Slurm it is queued."""
    require_packages()
    request = ledger.request()
    asked = asked_of(ledger, request, place, arguments)
    if place.folder.exists():
        if (found := state_of(place)["state"]) != "down":
            raise ConfigError(
                f"run={ledger.name}: gateway {place.name} is {found}; another is started with gateway.name=NAME, this "
                f"one ended with: rag-hpc serve down run={ledger.handle} gateway.name={place.name}"
            )
        end(place)
    with naming_disk(place.folder):
        place.create()
    try:
        if cluster is not None and cluster.launcher.value == "slurm":
            job = gatejob.queue(ledger, place, asked, cluster)
            print(f"run={ledger.name}: gateway {place.name} is queued as job {job}")
            print(f"see: rag-hpc serve status run={ledger.handle}   its page: rag-hpc serve tunnel run={ledger.handle}")
            return 0
        place.write(ASKED, dataclasses.replace(asked, interface=cluster.interface if cluster else None))
        doors = start(place, request)
    except BaseException:
        end(place)
        raise
    print(f"run={ledger.name}: gateway {place.name} is up: curl --unix-socket {doors.owner} http://localhost/readyz")
    if fleet := asked.settings["fleet"]:
        replicas = f"rag-hpc serve replicas run={ledger.handle} group={fleet}"
        print(f"its answers come from the replicas of fleet {fleet}: {replicas}")
    if asked.settings["log"]:
        print(
            f"questions, answers and votes are kept for this account alone; read them: rag-hpc feedback {ledger.handle}"
        )
    print(f"its page, from elsewhere: rag-hpc serve tunnel run={ledger.handle}")
    if doors.port >= 0:
        keys = f"rag-hpc serve grant run={ledger.handle} account.name=NAME"
        print(f"with a token: http://{doors.address}:{doors.port}/v1   keys: {keys}")
    return 0


def asked_of(ledger: Ledger, request: Request, place: GatewayPlace, arguments: Arguments) -> Asked:
    """Return the gateway that is asked for. Raises ConfigError for one that could not answer."""
    check_pipeline(ledger.name, request)
    config = settings(arguments)
    candidates_of(request.settings, config.candidates)
    if config.otlp:
        traces.require()
    if fleet := fleet_of(ledger, config, arguments):
        config.fleet = fleet
        own = ["generator=openai", "generator.base_url=http://localhost/v1", f"generator.model=fleet-{fleet}"]
        arguments = dataclasses.replace(arguments, overrides=[*arguments.overrides, *own])
    if config.replicas and arguments.override("generator.base_url") is None:
        first = config.replicas[0]
        url = first if first.startswith("http") else "http://localhost/v1"
        arguments = dataclasses.replace(arguments, overrides=[*arguments.overrides, f"generator.base_url={url}"])
    generator = generator_of(arguments, {"name": "extractive"})
    if generator.name.loads_model:
        raise ConfigError(
            f"generator={generator.name.value}: a gateway loads no model; start the server beside it and give "
            "generator=openai gateway.replicas=[http://127.0.0.1:8000/v1] generator.model=M"
        )
    return Asked(
        run=ledger.name,
        run_dir=str(place.run_dir),
        name=place.name,
        submission=request.number,
        settings=dataclasses.asdict(config),
        generator=to_plain(generator),
        cache=to_plain(cache_of(arguments)),
    )


def fleet_of(ledger: Ledger, config: GatewayConfig, arguments: Arguments) -> str:
    """Return whose replicas answer: the fleet that is named, else "1" where it is and nothing else is asked for; or "".

    Raises ConfigError for what a fleet says itself.
    """
    given = {override.partition("=")[0] for override in arguments.overrides}
    if not config.fleet:
        free = not config.replicas and not given & {"generator", "generator.base_url"}
        return "1" if free and replicas_place(ledger.run_dir, "1").folder.is_dir() else ""
    said = sorted(given & {f"generator.{name}" for name in ("base_url", "model", "api_key_env", "api_key_file")})
    if arguments.override("generator") not in (None, "openai"):
        said.append("generator")
    if said:
        raise ConfigError(
            f"gateway.fleet={config.fleet}: its replicas say where and what they are; leave {said[0]} away"
        )
    return config.fleet


def start(place: GatewayPlace, request: Request) -> Doors:
    """Start a gateway, and return where it answers when it does. Raises IncompleteError."""

    def wait(alive: Callable[[], bool]) -> None:
        limit = time.monotonic() + UP_S
        while state_of(place)["state"] != "up":
            if not alive() or time.monotonic() > limit:
                said = shown(resident.said(place), block=True)
                raise IncompleteError(f"gateway {place.name} does not come up:\n{said}")
            time.sleep(resident.POLL_S)

    resident.start(place, KEEPER, [], world=1, request=request, log="keeper.log", wait=wait)
    return place.doors()


def end(place: GatewayPlace) -> None:
    """End one gateway, whose open requests are answered first, and remove its folder. Raises ConfigError for one that
    another machine keeps up, ClusterError for a job that stays in the queue."""
    if asked := job_of(place):
        resident.cancel(connect(asked.cluster, asked.slurm_conf), lambda: [asked.job])
    else:
        resident.stop(place, KEEPER)
    place.remove()


def state_of(place: GatewayPlace) -> dict[str, Any]:
    """Return how a gateway is; `state` is down, with a reason, where nothing answers."""
    import httpx

    if asked := job_of(place):
        return gatejob.state_of(place, asked)
    found: dict[str, Any] = {"gateway": place.name, "state": "down"}
    try:
        doors = place.doors()
        if doors.host != os.uname().nodename:
            raise InputError(f"it answers on {doors.host} only; ask there")
        with httpx.Client(transport=httpx.HTTPTransport(uds=doors.owner), timeout=5.0) as client:
            ready = client.get("http://localhost/readyz")
        told = ready.json()
        reason = "" if ready.status_code == 200 else told["error"]["message"]
        return {**found, "state": "up", "doors": doors, "groups": told.get("coverage", ""), "reason": reason}
    except (RagHpcError, OSError, httpx.HTTPError, ValueError, KeyError) as error:
        alive = resident.keeper_pid(place, KEEPER) is not None
        return {**found, "state": "starting" if alive else "down", "reason": str(error)}


def job_of(place: GatewayPlace) -> Asked | None:
    """Return what the gateway is asked to be, None where it is no job of Slurm or where that cannot be read."""
    with contextlib.suppress(OSError, RagHpcError):
        asked = place.asked()
        return asked if asked.job else None
    return None


def as_plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a gateway for JSON."""
    return {**state, "doors": dataclasses.asdict(state["doors"])} if "doors" in state else state


# ---- settings


def settings(arguments: Arguments) -> GatewayConfig:
    """Return the settings given as gateway.KEY=VALUE. Raises ConfigError for a wrong one."""
    values: dict[str, Any] = {**pairs_of(arguments, GatewayConfig, "gateway", "name")}
    values.pop("name", None)
    if "replicas" in values:
        values["replicas"] = [one.strip() for one in values["replicas"].strip("[]").split(",") if one.strip()]
    config = from_plain(GatewayConfig, values)
    config.auth_dir = str(Path(config.auth_dir).expanduser().absolute()) if config.auth_dir else ""
    return config


def cache_of(arguments: Arguments) -> CacheConfig:
    """Return the settings given as cache.KEY=VALUE. Raises ConfigError for a wrong one."""
    config = from_plain(CacheConfig, pairs_of(arguments, CacheConfig, "cache"))
    for name in (field.name for field in dataclasses.fields(CacheConfig) if "path" in field.metadata):
        if path := getattr(config, name):  # the gateway's process runs in another folder
            setattr(config, name, str(Path(path).expanduser().absolute()))
    return config


def pairs_of(arguments: Arguments, kind: type, group: str, *other: str) -> dict[str, str]:
    """Return what is given as GROUP.KEY=VALUE. Raises ConfigError for a key that is not the group's nor of `other`."""
    prefix = f"{group}."
    pairs = dict(o.removeprefix(prefix).split("=", 1) for o in arguments.overrides if o.startswith(prefix))
    names = [*other, *(field.name for field in dataclasses.fields(kind))]
    for key in pairs:
        if key not in names:
            raise ConfigError(f"{prefix}{key}: {did_you_mean(key, names, prefix)}known: {', '.join(names)}")
    return pairs


def place_of(ledger: Ledger, arguments: Arguments) -> GatewayPlace:
    """Return the place of the gateway that is named. Raises ConfigError for what is no name."""
    name = arguments.override("gateway.name") or "1"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) or name == "auth":
        raise ConfigError(f"gateway.name={name}: use letters, digits, '_' and '-' only, 32 at most, and not auth")
    return GatewayPlace(ledger.run_dir, name)


def require_packages() -> None:
    """Raise MissingDependency for a package of the extra that is not installed."""
    if absent := [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        raise MissingDependency(
            f"serve gateway: {', '.join(absent)} not installed; run: pip install 'rag-hpc[gateway]'"
        )
