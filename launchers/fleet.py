"""`rag-hpc serve replicas`: engines of a language model that stay up for a fleet, each drained before its walltime."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import whole_number
from rag_hpc.core.fs import naming_disk
from rag_hpc.core.log import shown
from rag_hpc.errors import ConfigError, did_you_mean
from rag_hpc.generators.config import GeneratorName
from rag_hpc.launchers import replicas as processes
from rag_hpc.schema import from_plain, to_plain
from rag_hpc.serve import replicas
from rag_hpc.serve.replicas import ReplicaConfig, Replicas, replicas_place

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger
    from rag_hpc.serve.places import Place
    from rag_hpc.slurm.cluster import ClusterConfig

SETTING = "serve.replica."


def up(ledger: Ledger, name: str, arguments: Arguments, cluster: ClusterConfig) -> int:
    """Start replicas, and wait on this machine until all are ready; on Slurm they are queued. Of those that are up, the
    number changes."""
    place = replicas_place(ledger.run_dir, name)
    if place.folder.exists() and (found := processes.state_of(place))["state"] != "down":
        return resize(ledger, place, arguments, cluster, found["state"])
    asked = asked_of(ledger, arguments)
    if place.folder.exists():
        processes.end(place)
    with naming_disk(place.folder):
        place.create()
    try:
        if cluster.launcher.value == "slurm":
            jobs = processes.queue(ledger, place, asked, cluster)
            print(f"run={ledger.name}: {asked.num} replicas are queued as jobs {', '.join(jobs)}")
        else:
            processes.start(place, ledger.request(), asked)
            print(f"run={ledger.name}: {asked.num} replicas are ready")
    except BaseException:
        processes.end(place)
        raise
    print(f"see: rag-hpc serve status run={ledger.handle}   end them: rag-hpc serve down run={ledger.handle}")
    return 0


def resize(ledger: Ledger, place: Place, arguments: Arguments, cluster: ClusterConfig, state: str) -> int:
    """Change how many replicas there are. Raises ConfigError when that is not what is asked for."""
    was = replicas.asked(place)
    num = whole_number("workers", arguments.override("workers"), was.num, least=1)
    given = {o.split("=")[0].split(".")[0] for o in arguments.overrides}
    told = f"run={ledger.name}: replicas {place.name} are {state}"
    others = (
        f"others are started with group=NAME, these ended with: rag-hpc serve down run={ledger.handle} "
        f"group={place.name}"
    )
    wanted = asked_of(ledger, arguments) if given & {"generator", "serve"} else was
    if (wanted.generator, wanted.settings) != (was.generator, was.settings):
        raise ConfigError(f"{told}, with other settings: while they are up only workers=N may change; {others}")
    if "cluster" in given and (to_plain(cluster) if cluster.launcher.value == "slurm" else {}) != was.site:
        raise ConfigError(f"{told}, on another site or with other resources; {others}")
    if num == was.num and not was.resting and not (was.site and processes.absent(place)):
        raise ConfigError(f"{told}, {num} of them; another workers=N changes how many; {others}")
    check_most(num, ReplicaConfig(**was.settings))
    jobs = processes.resize(place, num)
    new = f", queued: job {', '.join(jobs)}" if jobs else ""
    print(f"run={ledger.name}: replicas {place.name} were {was.num} and are to be {num}{new}")
    return 0


def asked_of(ledger: Ledger, arguments: Arguments) -> Replicas:
    """Return what is asked for. Raises ConfigError where it could not be served."""
    from rag_hpc.config import compose

    overrides = [o for o in arguments.overrides if o.split("=")[0].split(".")[0] == "generator"]
    generator = compose(overrides, arguments.config_dir).generator
    if generator.name is not GeneratorName.vllm:
        raise ConfigError(
            f"generator={generator.name.value}: replicas are engines of their own, which only generator=vllm has; "
            "e.g. rag-hpc serve replicas run=RUN workers=2 generator=vllm generator.model=DIR"
        )
    num, config = whole_number("workers", arguments.override("workers"), 1, least=1), settings(arguments)
    check_most(num, config)
    return Replicas(num=num, generator=to_plain(generator), settings=dataclasses.asdict(config))


def check_most(num: int, config: ReplicaConfig) -> None:
    """Raise ConfigError for more replicas than there may be by load."""
    if 0 < config.max_replicas < num:
        raise ConfigError(
            f"workers={num}: that is the least, and serve.replica.max_replicas={config.max_replicas} the most; "
            "give fewer workers, or more at the most"
        )


def settings(arguments: Arguments) -> ReplicaConfig:
    """Return the settings given as serve.replica.KEY=VALUE. Raises ConfigError for a wrong one."""
    given = dict(o.removeprefix(SETTING).split("=", 1) for o in arguments.overrides if o.startswith(SETTING))
    known = [field.name for field in dataclasses.fields(ReplicaConfig)]
    for key in given:
        if key not in known:
            raise ConfigError(f"{SETTING}{key}: {did_you_mean(key, known, SETTING)}known: {', '.join(known)}")
    config: ReplicaConfig = from_plain(ReplicaConfig, given)
    return config


def tell(found: dict[str, Any]) -> None:
    """Print how the replicas are."""
    why = f"  {shown(found['reason'])}" if "reason" in found else ""
    print(f"replicas {found['replicas']}: {found['state']}, {found['ready']} of {found['asked']} ready{why}")
    for row in found["live"]:
        left = f", {(row['ends'] - time.time()) / 60:.0f} min left" if row["ends"] else ""
        job = f", job {row['job']}" if row["job"] else ""
        print(f"  {row['name']}: {row['state']:<8}  {shown(row['host'])}{job}{left}")
    for job, state in found.get("jobs", {}).items():
        print(f"  job {job}: {shown(state)}")
