"""A site's settings: the only configuration group that a new site writes."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from rag_hpc.core.job import settable
from rag_hpc.core.settings import path_field
from rag_hpc.errors import ConfigError

# what sbatch is told by us, or would take jobs out of our hands; each with where it is set instead, if anywhere
OWN_FLAGS = dict.fromkeys(
    """
    job-name output error open-mode chdir dependency kill-on-invalid-dep hold requeue no-requeue signal wrap parsable
    wait test-only uid gid get-user-env clusters
    """.split(),
    "",
) | {
    "time": "cluster.time_min",
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "cluster.mem_gib"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task"), "cluster.gres"),  # not for every job
    "cpus-per-task": "cluster.cpus_per_task",
    **dict.fromkeys(("export", "export-file"), "cluster.env"),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "array"), "workers"),
    **{n: f"cluster.{n}" for n in ("account", "partition", "qos", "constraint", "reservation", "gres", "exclude")},
}


class Share(enum.Enum):
    """Who else may read the runs."""

    group = "group"


class Launcher(enum.Enum):
    """How a cluster starts jobs."""

    local = "local"
    slurm = "slurm"


@dataclass(kw_only=True)
class StageResources:
    """What the jobs of one stage ask for in place of the site's own; null = as the site says."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None  # for this stage, whether it is one that uses GPUs or not
    time_min: int | None = None
    mem_gib: float | None = None
    cpus_per_task: int | None = None


@dataclass(kw_only=True)
class ClusterConfig:
    """One site: where runs live and how jobs are asked for. The only group that a new site writes.

    A resource that is null sends no flag to Slurm.
    """

    name: str = "local"
    launcher: Launcher = Launcher.local
    root: str | None = path_field()  # folder of the runs, on a filesystem that all nodes see; null = results/runs here
    share: Share | None = None  # group: members of the folder's group may read the runs; those who read give it too
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None  # for encode and rerank, in the site's spelling, e.g. gpu:a100:1
    exclude: str | None = None
    time_min: int | None = None  # walltime of a job, minutes
    walltime_margin_s: int = 120  # workers stop this long before the walltime
    mem_gib: float | None = None  # of a node; 0 = all that it has
    cpus_per_task: int | None = None
    max_array_size: int = 1000
    array_parallelism: int = 256
    mpi: str = "pmix"  # srun --mpi=...; "mpirun" to start ranks with the MPI library's own mpirun
    interface: str | None = None  # network interface for torchrun's gloo or NCCL
    prologue: list[str] = field(default_factory=list)  # shell lines before the work: module load ..., source ...
    env: dict[str, str] = field(default_factory=dict)  # threads, communication, caches; nothing that loads code
    secrets_file: str | None = path_field()  # 0600 file of NAME=value lines, read by jobs, never copied
    scratch: str | None = path_field()  # node-local folder
    max_resubmits: int = 2  # how often a gate resubmits a stage before it stops the chain
    slurm_conf: str | None = path_field()
    stages: dict[str, StageResources] = field(default_factory=dict)  # by stage (dedup.link) or group of stages (dedup)
    sbatch: dict[str, str] = field(default_factory=dict)  # further flags of every job; "true" or "" stands alone

    def __post_init__(self) -> None:
        values = [*vars(self).values(), *self.env.values(), *self.sbatch.values()]
        if any("\n" in value or "\r" in value for value in values if isinstance(value, str)):
            raise ConfigError("cluster: a value holds a line break, which could smuggle in an #SBATCH line; remove it")
        if self.launcher is Launcher.local:
            refuse_on_this_machine(self)
        check_flags(self.sbatch)
        settable({name: str(value) for name, value in self.env.items()})
        if self.mem_gib is not None and self.mem_gib < 0:
            raise ConfigError(f"cluster.mem_gib={self.mem_gib:g}: 0 is the whole node, null leaves it to the site")
        if self.max_array_size < 1 or self.array_parallelism < 1:
            raise ConfigError("cluster: max_array_size >= 1 and array_parallelism >= 1 are needed")
        for stage in self.stages:
            self.of(stage)  # which is checked as the site is

    def holder_of(self, stage: str, name: str) -> str | None:
        """Return the key of `stages` that holds a stage's own resource: its name before that of its group."""
        keys = [key for key in (stage, stage.split(".")[0]) if key in self.stages]
        return next((key for key in keys if getattr(self.stages[key], name, None) is not None), None)

    def key_of(self, stage: str, name: str) -> str:
        """Return the setting that holds a stage's resource: its own, or the site's."""
        holder = self.holder_of(stage, name)
        return f"cluster.stages.{holder}.{name}" if holder else f"cluster.{name}"

    def of(self, stage: str) -> ClusterConfig:
        """Return the site as one stage's jobs see it: with the stage's own resources in place of the site's."""
        holders = {f.name: self.holder_of(stage, f.name) for f in fields(StageResources)}
        own = {name: getattr(self.stages[holder], name) for name, holder in holders.items() if holder}
        return replace(self, **own, stages={})


def refuse_on_this_machine(cluster: ClusterConfig) -> None:
    """Raise ConfigError for what is asked of Slurm where processes of this machine do the work."""
    names = [f.name for f in fields(StageResources)] + ["exclude", "stages", "sbatch"]
    for name in names:
        if getattr(cluster, name) not in (None, {}):
            raise ConfigError(
                f"cluster.{name}: cluster={cluster.name} is this machine, where no Slurm is asked for anything; leave "
                "it away, or choose a site: cluster=slurm, or one of your own, cluster=NAME with --config-dir DIR"
            )


def check_flags(flags: Mapping[str, object]) -> None:
    """Raise ConfigError for a flag of sbatch that is no long name, or that the launcher sets itself."""
    for name, value in flags.items():
        if not isinstance(value, str):
            raise ConfigError(f"cluster.sbatch.{name}={value}: a text is needed; a list is one with commas, in quotes")
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
            raise ConfigError(f"cluster.sbatch.{name}: the long name of a flag of sbatch is needed, such as mail-type")
        if name in OWN_FLAGS:
            remedy = f"set {OWN_FLAGS[name]}" if OWN_FLAGS[name] else "leave it away"
            raise ConfigError(f"cluster.sbatch.{name}: that is for the launcher to set; {remedy}")
