"""`rag-hpc serve`: resident groups, whose ranks hold a finished run's shards open and answer queries until `down`; and
the gateways in front of them."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, root_of, whole_number
from rag_hpc.core.fs import naming_disk
from rag_hpc.core.ledger import find_run
from rag_hpc.core.log import shown
from rag_hpc.errors import ConfigError, did_you_mean
from rag_hpc.launchers import access, fleet, gateway
from rag_hpc.launchers.group import end, queue, start, state_of
from rag_hpc.launchers.replicas import drain as drain_replicas
from rag_hpc.launchers.replicas import end as end_replicas
from rag_hpc.launchers.replicas import state_of as state_of_replicas
from rag_hpc.schema import from_plain
from rag_hpc.serve.cache.warm import warm
from rag_hpc.serve.gateway.places import GatewayPlace, gateways_of
from rag_hpc.serve.places import GROUP, Group, Place, ServeConfig, groups_of
from rag_hpc.serve.replicas import places_of

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.cluster import ClusterConfig

NEEDED = ("lexical", "encode", "retrieve.search")


def serve(arguments: Arguments) -> int:
    """Start, describe or end the groups and gateways of a run."""
    word, *names = arguments.words
    ledger = find_run(root_of(arguments), arguments.override("run") or (names[0] if names else None))
    if word == "gateway":
        given = any(o.split("=")[0].split(".")[0] == "cluster" for o in arguments.overrides)
        where = site(ledger.request(), arguments) if given else None  # on this machine, wherever the run ran
        return gateway.up(ledger, gateway.place_of(ledger, arguments), arguments, where)
    if word in access.WORDS:
        return access.run_word(word, ledger, arguments)
    if word == "warm":
        return warm(arguments, ledger)
    if "--file" in arguments.values or any(o.startswith(("most=", "tenant=", "cache.")) for o in arguments.overrides):
        raise ConfigError(
            f"serve {word}: --file, most=, tenant= and cache.KEY= are for: rag-hpc serve warm, or gateway"
        )
    name = arguments.override("group")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise ConfigError(f"group={name}: use letters, digits, '_' and '-' only, 32 at most")
    if word == "replicas":
        return fleet.up(ledger, name or "1", arguments, site(ledger.request(), arguments))
    door = arguments.override("gateway.name")
    places = [place for place in groups_of(ledger.run_dir) if (name or (door and "")) in (None, place.name)]
    doors = [place for place in gateways_of(ledger.run_dir) if (door or (name and "")) in (None, place.name)]
    if word == "up":
        return up(ledger, Place(ledger.run_dir, name or "1"), arguments)
    fleets = [place for place in places_of(ledger.run_dir) if name in (None, place.name)]
    if word == "drain":
        return drain(ledger, fleets)
    if word == "down":
        return down(ledger, places, doors, fleets)
    return status(ledger, places, doors, fleets, as_text="--json" not in arguments.flags)


# ---- up


def up(ledger: Ledger, place: Place, arguments: Arguments) -> int:
    """Start a group, and wait on this machine until it answers; on Slurm it is queued."""
    request = ledger.request()
    group = group_of(ledger, request, place, arguments)
    cluster = site(request, arguments)
    if place.folder.exists():
        found = state_of(place)
        if found["state"] != "down":
            raise ConfigError(
                f"run={ledger.name}: group {place.name} is {found['state']}; another is started with group=NAME, this "
                f"one ended with: rag-hpc serve down run={ledger.handle} group={place.name}"
            )
        end(place)
    with naming_disk(place.folder):
        place.create()
    try:
        if cluster.launcher.value == "slurm":
            return queue(ledger, place, group, cluster)
        place.write(GROUP, group)
        start(place, request, group)
    except BaseException:
        end(place)
        raise
    found = state_of(place)
    print(f"run={ledger.name}: group {place.name} is up: {group.ranks} ranks, {found['coverage']} shards")
    print(f"ask it: rag-hpc ask run={ledger.handle}   end it: rag-hpc serve down run={ledger.handle}")
    return 0


def group_of(ledger: Ledger, request: Request, place: Place, arguments: Arguments) -> Group:
    """Return the group that is asked for. Raises ConfigError and IncompleteError for what could not be served."""
    from rag_hpc.serve.rank import fingerprint, inputs_of

    if absent := [stage for stage in NEEDED if stage not in request.stages]:
        raise ConfigError(
            f"run={ledger.name}: its pipeline has no {', '.join(absent)}, so there is nothing to serve; "
            "run the same corpus with pipeline=cluster"
        )
    config = settings(arguments)
    inputs = inputs_of(ledger.run_dir, request, ann=config.ann)
    return Group(
        run=ledger.name,
        run_dir=str(place.run_dir),
        name=place.name,
        ranks=whole_number("workers", arguments.override("workers"), request.workers, least=1),
        submission=request.number,
        fingerprint=fingerprint(inputs, request),
        settings=dataclasses.asdict(config),
    )


def settings(arguments: Arguments) -> ServeConfig:
    """Return the settings given as serve.KEY=VALUE. Raises ConfigError for a wrong one."""
    given = dict(o.removeprefix("serve.").split("=", 1) for o in arguments.overrides if o.startswith("serve."))
    known = [field.name for field in dataclasses.fields(ServeConfig)]
    for key in given:
        if key not in known:
            raise ConfigError(f"serve.{key}: {did_you_mean(key, known, 'serve.')}known: {', '.join(known)}")
    return from_plain(ServeConfig, given)


def site(request: Request, arguments: Arguments) -> ClusterConfig:
    """Return where the group is to be: the cluster given, else that of the run."""
    from rag_hpc.slurm.cluster import ClusterConfig

    given = [o for o in arguments.overrides if o.split("=")[0].split(".")[0] == "cluster"]
    if any(o.startswith("cluster=") for o in given):
        from rag_hpc.config import compose

        return compose(given, arguments.config_dir).cluster
    if other := [o for o in given if not o.startswith("cluster.root=")]:
        raise ConfigError(f"{other[0]}: of which site? Add cluster=NAME, or leave it away to serve where the run ran")
    return from_plain(ClusterConfig, request.cluster)


# ---- status


def status(
    ledger: Ledger, places: list[Place], doors: list[GatewayPlace], fleets: list[Place], *, as_text: bool
) -> int:
    """Print how the groups, replicas and gateways are; exit 0 when all are up, else 3."""
    found, gates = [state_of(place) for place in places], [gateway.state_of(place) for place in doors]
    replicas = [state_of_replicas(place) for place in fleets]
    if not as_text:
        print(as_json([*found, *replicas, *(gateway.as_plain(gate) for gate in gates)]))
    elif not found and not replicas:
        print(f"run={ledger.name}: no group; start one: rag-hpc serve up run={ledger.handle}")
    for one in found if as_text else ():
        print(f"group {one['group']}: {one['state']}{of_a_job(one)}  {shown(one.get('reason', ''))}".rstrip())
        if "ranks" in one:
            print(
                f"  shards {one['coverage']}, {one['queries']} queries, p50 {ms(one['p50_ms'])}, p99 "
                f"{ms(one['p99_ms'])}; waiting {one['waiting']}, partial {one['partial']}, late {one['late']}, "
                f"overloaded {one['overloaded']}"
            )
        for row in one.get("ranks", ()):
            memory = f"{row['rss_bytes'] / 2**20:.0f} MiB" if row["rss_bytes"] else ""
            print(f"  rank {row['rank']}: {row['state']:<8} {row['shards']} shards  {shown(row['host'])}  {memory}")
    for one in replicas if as_text else ():
        fleet.tell(one)
    for gate in gates if as_text else ():
        where = f" on {shown(gate['doors'].host)}" if gate.get("job") and "doors" in gate else ""
        told = f"gateway {gate['gateway']}: {gate['state']}{where}{of_a_job(gate)}"
        print(f"{told}  {shown(gate.get('reason', ''))}".rstrip())
    states = [one["state"] for one in (*found, *replicas, *gates)]
    return 0 if states and set(states) == {"up"} else 3


def of_a_job(found: dict[str, Any]) -> str:
    """Return what status says of a group's job, nothing of one on this machine."""
    return f", job {found['job']}" if found.get("job") else ""


def ms(number: float | None) -> str:
    """Return a time as people read it."""
    return "–" if number is None else f"{number:g} ms"


# ---- drain and down


def drain(ledger: Ledger, fleets: list[Place]) -> int:
    """Let replicas answer what they were asked and end; gateways tell others when to come again."""
    for place in fleets:
        drain_replicas(place)
        on = f"rag-hpc serve replicas run={ledger.handle} group={place.name}"
        print(f"run={ledger.name}: replicas {place.name} drain, and are started again with: {on}")
    if not fleets:
        print(f"run={ledger.name}: no replicas are up")
    return 0


def down(ledger: Ledger, places: list[Place], doors: list[GatewayPlace], fleets: list[Place]) -> int:
    """End gateways, replicas and groups, whose open requests are answered first, and remove all that they made."""
    for door in doors:
        gateway.end(door)
        print(f"run={ledger.name}: gateway {door.name} is down")
    for place in fleets:
        end_replicas(place)
        print(f"run={ledger.name}: replicas {place.name} are down")
    for place in places:
        end(place)
        print(f"run={ledger.name}: group {place.name} is down")
    if not places and not doors and not fleets:
        print(f"run={ledger.name}: no group is up")
    return 0
