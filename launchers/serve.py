"""`rag-hpc serve`: resident groups, whose ranks hold a finished run's shards open and answer queries until `down`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, root_of, whole_number
from rag_hpc.core.fs import naming_disk
from rag_hpc.core.ledger import find_run
from rag_hpc.core.log import shown
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ClusterError, ConfigError, IncompleteError, InputError, RagHpcError, did_you_mean
from rag_hpc.launchers.local import environment
from rag_hpc.schema import from_plain
from rag_hpc.serve.client import Client
from rag_hpc.serve.places import GROUP, Group, Place, ServeConfig, groups_of
from rag_hpc.slurm.client import connect

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger, Request
    from rag_hpc.slurm.cluster import ClusterConfig

NEEDED = ("lexical", "encode", "retrieve.search")
UP_S, DOWN_S = 600.0, 40.0  # how long the ranks may take to open their shards, and to end
POLL_S = 0.1


def serve(arguments: Arguments) -> int:
    """Start, describe or end the groups of a run."""
    word, *names = arguments.words
    ledger = find_run(root_of(arguments), arguments.override("run") or (names[0] if names else None))
    name = arguments.override("group")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise ConfigError(f"group={name}: use letters, digits, '_' and '-' only, 32 at most")
    places = [place for place in groups_of(ledger.run_dir) if name in (None, place.name)]
    if word == "up":
        return up(ledger, Place(ledger.run_dir, name or "1"), arguments)
    if word == "down":
        return down(ledger, places)
    return status(ledger, places, as_text="--json" not in arguments.flags)


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
            return queue(ledger, place, group, request, cluster)
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
    from rag_hpc.serve.rank import fingerprint, inputs_of, settings_of

    if absent := [stage for stage in NEEDED if stage not in request.stages]:
        raise ConfigError(
            f"run={ledger.name}: its pipeline has no {', '.join(absent)}, so there is nothing to serve; "
            "run the same corpus with pipeline=cluster"
        )
    config = settings(arguments)
    inputs = inputs_of(ledger.run_dir, request, ann=config.ann)
    return Group(
        run=ledger.name,
        name=place.name,
        ranks=whole_number("workers", arguments.override("workers"), request.workers, least=1),
        submission=request.number,
        fingerprint=fingerprint(inputs, settings_of(request)),
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


def start(place: Place, request: Request, group: Group) -> None:
    """Start the ranks on this machine under a keeper, and return when they answer. Raises IncompleteError."""
    command = [sys.executable, "-P", "-m", "rag_hpc.launchers.keeper", str(place.run_dir), place.name]
    with (place.folder / "keeper.log").open("ab") as stream:
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


def queue(ledger: Ledger, place: Place, group: Group, request: Request, cluster: ClusterConfig) -> int:
    """Submit the group as an array of one rank a task, which Slurm and the tasks themselves put back when they end."""
    from rag_hpc.launchers.chain import check_places, check_sites
    from rag_hpc.slurm.scripts import GroupJob, group_script

    check_places(ledger, cluster)
    slurm = connect(cluster.name, cluster.slurm_conf)
    check_sites(["retrieve.search"], cluster, slurm)
    asked = GroupJob(
        run_dir=place.run_dir,
        group=place.name,
        folder=place.folder,
        ranks=group.ranks,
        python=sys.executable,
        environment=request.environment,
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


# ---- status


def status(ledger: Ledger, places: list[Place], *, as_text: bool) -> int:
    """Print how the groups are; exit 0 when all are up with all ranks, else 3."""
    found = [state_of(place) for place in places]
    if not as_text:
        print(as_json(found))
    elif not found:
        print(f"run={ledger.name}: no group; start one: rag-hpc serve up run={ledger.handle}")
    for one in found if as_text else ():
        print(f"group {one['group']}: {one['state']}{of_a_job(one)}")
        if "ranks" in one:
            print(
                f"  shards {one['coverage']}, {one['queries']} queries, p50 {ms(one['p50_ms'])}, p99 "
                f"{ms(one['p99_ms'])}; waiting {one['waiting']}, partial {one['partial']}, late {one['late']}, "
                f"overloaded {one['overloaded']}"
            )
        for row in one.get("ranks", ()):
            memory = f"{row['rss_bytes'] / 2**20:.0f} MiB" if row["rss_bytes"] else ""
            print(f"  rank {row['rank']}: {row['state']:<8} {row['shards']} shards  {shown(row['host'])}  {memory}")
    return 0 if found and all(one["state"] == "up" for one in found) else 3


def of_a_job(found: dict[str, Any]) -> str:
    """Return what status says of a group's job, nothing of one on this machine."""
    return f", job {found['job']}" if found.get("job") else ""


def ms(number: float | None) -> str:
    """Return a time as people read it."""
    return "–" if number is None else f"{number:g} ms"


def state_of(place: Place) -> dict[str, Any]:
    """Return how a group is, as its door says; `state` is down, with a reason, where nothing answers."""
    found: dict[str, Any] = {"group": place.name, "state": "down", "job": ""}
    try:
        group = place.group()
        found["job"] = group.job
        with contextlib.closing(Client(place)) as client:
            return {**found, **client.status()}
    except (RagHpcError, OSError) as error:
        alive = keeper_pid(place) is not None
        return {**found, "state": "starting" if alive else "down", "reason": str(error)}


# ---- down


def down(ledger: Ledger, places: list[Place]) -> int:
    """End groups, whose open requests are answered first, and remove all that they made."""
    for place in places:
        end(place)
        print(f"run={ledger.name}: group {place.name} is down")
    if not places:
        print(f"run={ledger.name}: no group is up")
    return 0


def end(place: Place) -> None:
    """End one group and remove its folder. Raises ConfigError for one that another machine keeps up."""
    group: Group | None = None
    with contextlib.suppress(FileNotFoundError, InputError):
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


def stop_keeper(place: Place) -> None:
    """End the keeper on this machine with its ranks."""
    with contextlib.suppress(FileNotFoundError):
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            raise ConfigError(f"group {place.name} was started on {keeper.host}; end it there")
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + DOWN_S
        pid = keeper_pid(place)
        if pid is not None:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        while keeper_pid(place) is not None and time.monotonic() < limit:
            time.sleep(POLL_S)


def keeper_pid(place: Place, proc: Path = Path("/proc")) -> int | None:
    """Return the process that keeps the group up on this machine, None where it does not run."""
    try:
        keeper = place.keeper()
        if keeper.host != os.uname().nodename:
            return None
        words = (proc / str(keeper.pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, RagHpcError):
        return None
    return keeper.pid if "rag_hpc.launchers.keeper" in words and str(place.run_dir) in words else None


def said(place: Place, num_lines: int = 8) -> str:
    """Return the ends of a group's logs."""
    ends = []
    for path in sorted(place.folder.glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        ends += [f"==> {path.name} <==", *lines[-num_lines:]]
    return "\n".join(ends)
