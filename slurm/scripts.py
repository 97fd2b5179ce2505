"""The texts of batch scripts, as pure functions: nothing is read or sent here.

Every value is quoted for the shell, and one that holds a line break is refused: it could smuggle in an #SBATCH line.
Flags that nobody set are not sent.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.core.hashing import hash_value
from rag_hpc.core.job import SAFE_PATH, JobEnv, settable, variable
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError
from rag_hpc.slurm.states import num_gpus

if TYPE_CHECKING:
    from rag_hpc.slurm.cluster import ClusterConfig

GATE_TIME_MIN = 60  # a gate reads every byte of its stage once, to verify it
GATE_MEM_GIB = 4.0
WALLTIME_SLACK_S = 10  # of a replica, whose drain is counted apart
GATEWAY_SLACK_S = 30  # of a gateway, with its drain
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
# a job behind a gate that died goes, too, and its own gate then says so; sites may keep such jobs for ever
AFTER_A_GATE = {"kill-on-invalid-dep": "yes"}
_RUN_TIME_PATH = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?((?:/[\w.-]+)*)/?")


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """The workers of one stage in one submission."""

    run: str
    stage: str
    launch: Launch
    world: int  # workers of an array, ranks of torchrun or MPI
    num_nodes: int | None  # to spread the ranks over, one each; None = as Slurm likes
    plan: Path
    python: str
    submitted_unix: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    wants_gpu: bool = False

    @property
    def folder(self) -> Path:
        """Where the logs lie until the gate packs them into one."""
        return self.plan.parent / "jobs"

    def name(self, kind: str = "") -> str:
        """Return the job's name, which says at a glance in squeue whose it is; `kind`: .gate."""
        mark = f"{folder_mark(self.plan.parents[2])}.{int(self.plan.parent.name)}"
        return job_name(self.run, f"{self.stage}{kind}", mark)


def job_name(run: str, what: str, mark: str) -> str:
    """Return a name that needs no quoting anywhere: rh-RUN-WHAT-MARK."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"rh-{run[:80]}-{what}-{mark}")


def folder_mark(run_dir: Path) -> str:
    """Return what tells the jobs of a run from those of all others, also of one with this name in another folder."""
    return hash_value(str(run_dir))[:8]


def submission_of(name: str, run_dir: Path) -> int | None:
    """Return the number of the submission that the job of this name belongs to; None when it is not of the run."""
    matched = re.fullmatch(rf"rh-.*-{folder_mark(run_dir)}\.(\d+)", name, re.DOTALL)
    return int(matched[1]) if matched else None


def torchrun_script(job: StageJob, cluster: ClusterConfig) -> str:
    """Return the script of a torchrun job: one task a node, rank 0 and torchrun's store on the batch host.

    The rendezvous is static, each task told its number: c10d's unpickles what it finds in the store, which anybody who
    reaches the port can write. srun's tasks are numbered in the order of the nodes, so task 0 is on the batch host.
    """
    python = _python(job)
    lines = [
        'head="$(hostname)"',
        f'port="$({python} -m rag_hpc.launchers.ports)" || exit 1',
        f'exec {_srun(cluster)} sh -c \'exec env PET_NODE_RANK="$SLURM_PROCID" "$@"\' sh'
        f' {python} -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node {ranks_per_node(job, cluster)}'
        " --max-restarts 0"
        ' --rdzv-backend static --rdzv-id "$SLURM_JOB_ID" --master-addr "$head" --master-port "$port"'
        f" --no-python {_worker(job)}",
    ]
    flags = {**stage_flags(job, cluster), "nodes": job.num_nodes or job.world, "ntasks-per-node": 1}
    return script(flags, [*setup_lines(job, cluster), *lines])


def ranks_per_node(job: StageJob, cluster: ClusterConfig) -> int:
    """Return how many ranks torchrun starts on a node: one for each GPU that the job holds there, else one."""
    return max(1, num_gpus(cluster.gres)) if job.wants_gpu else 1


def mpi_script(job: StageJob, cluster: ClusterConfig) -> str:
    """Return the script of an MPI job: started by srun, or by the MPI library's own mpirun."""
    if cluster.mpi == "mpirun":
        start = f"exec mpirun -n {job.world} {_worker(job)}"
    else:
        start = f"exec {_srun(cluster)} --mpi={quote(cluster.mpi)} -n {job.world} {_worker(job)}"
    spread = {"nodes": job.num_nodes, "ntasks-per-node": 1} if job.num_nodes else {}
    flags = {**stage_flags(job, cluster), "ntasks": job.world, **spread}
    return script(flags, [*setup_lines(job, cluster), start])


def gate_script(job: StageJob, cluster: ClusterConfig) -> str:
    """Return the script of the gate after a stage: one task that verifies, plans, and resubmits or stops."""
    submission = job.plan.parent
    flags: dict[str, object] = {
        **site_flags(cluster),
        "job-name": job.name(".gate"),
        "ntasks": 1,
        "open-mode": "append",
        "output": pattern(submission / "gates.log"),
        "requeue": True,  # whatever the site's JobRequeue says: it does no harm to decide twice
        "time": gate_time_min(cluster),
        "mem": None if cluster.mem_gib is None else _mem(min(GATE_MEM_GIB, cluster.mem_gib or GATE_MEM_GIB)),
    }
    run_dir = submission.parents[1]
    start = f"exec {_python(job)} -m rag_hpc.launchers.gate {quote(run_dir)} {int(submission.name)} {quote(job.stage)}"
    return script(flags, ["umask 077", *prologue(cluster), *into(run_dir), *exports(common_variables(job)), start])


@dataclass(frozen=True, kw_only=True)
class GroupJob:
    """The ranks of a resident group: an array of one rank a task."""

    run_dir: Path
    group: str
    folder: Path  # with its files and logs
    ranks: int
    python: str
    environment: Mapping[str, str] = field(default_factory=dict)


def group_script(job: GroupJob, cluster: ClusterConfig) -> str:
    """Return the script of a resident group's array. A task that is killed, or near its walltime, puts itself back into
    the queue; one whose node dies is put back by Slurm. The others go on meanwhile, as those of one job step would not.
    """
    return _kept_up(
        job,
        cluster,
        f"serve.{job.group}",
        {"array": f"0-{job.ranks - 1}", "output": pattern(job.folder / "rank-") + "%a.job.log"},
        keeper=f'keeper {quote(job.run_dir)} {quote(job.group)} "$SLURM_ARRAY_TASK_ID"',
        told=_walltime(cluster, cluster.walltime_margin_s),
    )


@dataclass(frozen=True, kw_only=True)
class ReplicaJob:
    """One replica of a fleet, a job of its own: each has its own walltime, and its own successor."""

    run_dir: Path
    fleet: str
    folder: Path  # with its files and logs
    name: str
    python: str
    submitted_unix: float
    environment: Mapping[str, str] = field(default_factory=dict)


def replica_script(job: ReplicaJob, cluster: ClusterConfig) -> str:
    """Return the script of a replica's job. It is put back into the queue when it is killed or its node dies, and when
    its walltime is near and no successor was submitted."""
    told = _walltime(cluster, min(cluster.walltime_margin_s, WALLTIME_SLACK_S))
    return _kept_up(
        job,
        cluster,
        f"replica.{job.fleet}.{job.name}",
        {"nodes": 1, "gres": cluster.gres, "output": pattern(job.folder / f"replica-{job.name}") + ".job.log"},
        keeper=f"attendant {quote(job.run_dir)} {quote(job.fleet)} {quote(job.name)}",
        told=replace(told, submitted_unix=job.submitted_unix),
        own={"PYTHONUNBUFFERED": "1"},
    )


@dataclass(frozen=True, kw_only=True)
class GatewayJob:
    """A gateway of a run."""

    run_dir: Path
    gateway: str
    folder: Path  # with its files and logs
    python: str
    environment: Mapping[str, str] = field(default_factory=dict)


def gateway_script(job: GatewayJob, cluster: ClusterConfig) -> str:
    """Return the script of a gateway's job. It is put back into the queue when it is killed, its node dies, or its
    walltime is near; a second gateway answers meanwhile."""
    return _kept_up(
        job,
        cluster,
        f"gateway.{job.gateway}",
        {"nodes": 1, "output": pattern(job.folder / "gateway.job.log")},
        keeper=f"gatekeeper {quote(job.run_dir)} {quote(job.gateway)}",
        told=_walltime(cluster, min(cluster.walltime_margin_s, GATEWAY_SLACK_S)),
    )


def _kept_up(
    job: GroupJob | ReplicaJob | GatewayJob,
    cluster: ClusterConfig,
    what: str,
    flags: Mapping[str, object],
    *,
    keeper: str,
    told: JobEnv,
    own: Mapping[str, str] = ONE_THREAD,
) -> str:
    """Return the script of what stays up in a job: its keeper asks by its exit code to be put back into the queue."""
    asked: dict[str, object] = {
        **site_flags(cluster),
        "job-name": job_name(job.run_dir.name, what, folder_mark(job.run_dir)),
        **flags,
        "ntasks": 1,
        "open-mode": "append",
        "requeue": True,
        "time": cluster.time_min,
        "mem": _mem(cluster.mem_gib),
        "cpus-per-task": cluster.cpus_per_task,
    }
    secrets = not isinstance(job, GroupJob)  # ranks ask nobody
    lines = [
        "umask 077",
        *prologue(cluster),
        *into(job.run_dir),
        *exports({**own, **settable(job.environment), **SAFE_PATH, **told.to_env()}),
        *_scratch(cluster.scratch),
        *([f"set -a; . {quote(cluster.secrets_file)}; set +a"] if cluster.secrets_file and secrets else []),
        f"{quote(job.python)} -P -m rag_hpc.launchers.{keeper}",
        "code=$?",
        '[ "$code" -lt 3 ] || scontrol requeue "$SLURM_JOB_ID"',  # the walltime is near, or it was killed
        'exit "$code"',
    ]
    return script(asked, lines)


def _walltime(cluster: ClusterConfig, margin_s: float) -> JobEnv:
    """Return what a job is told of its walltime; margin_s: how long before it what stays up has to go."""
    if not cluster.time_min:
        return JobEnv()
    return JobEnv(walltime_s=60 * cluster.time_min, walltime_margin_s=margin_s)


def gate_time_min(cluster: ClusterConfig) -> int | None:
    """Return the walltime that a gate asks for, in minutes."""
    return min(GATE_TIME_MIN, cluster.time_min) if cluster.time_min else None


def script(flags: Mapping[str, object], lines: Sequence[str]) -> str:
    """Return a whole batch script; flags that are None are left out, and one that is True stands alone."""
    given = {name: "" if value is True else f"={quote(value)}" for name, value in flags.items() if value is not None}
    header = [f"#SBATCH --{name}{value}" for name, value in given.items()]
    return "\n".join(["#!/bin/bash", *header, "", *lines, ""])


def stage_flags(job: StageJob, cluster: ClusterConfig) -> dict[str, object]:
    """Return the flags of a stage's workers, without how many there are."""
    return {
        **site_flags(cluster),
        **AFTER_A_GATE,
        "job-name": job.name(),
        "open-mode": "append",
        "output": pattern(job.folder / f"{job.stage}.") + "%j.log",
        "gres": cluster.gres if job.wants_gpu else None,
        "time": cluster.time_min,
        "mem": _mem(cluster.mem_gib),
        "cpus-per-task": cluster.cpus_per_task,
    }


def into(run_dir: Path) -> list[str]:
    """Return the line that enters the run's folder, if it is still ours: a place for what crashes leave behind.

    submitit unpickles what lies there before any code of ours could look at it.
    """
    said = quote(f"{run_dir}: not a folder of this account; see: rag-hpc why")
    return [f"cd -- {quote(run_dir)} && [ -O . ] || {{ echo {said} >&2; exit 2; }}"]


def site_flags(cluster: ClusterConfig) -> dict[str, object]:
    """Return what every job of the site carries."""
    names = ("account", "partition", "qos", "constraint", "reservation", "exclude")
    return {**free_flags(cluster), **{name: getattr(cluster, name) for name in names}}


def free_flags(cluster: ClusterConfig) -> dict[str, object]:
    """Return the further flags that the site's settings name; True is a flag that stands alone."""
    return {name: True if value.lower() in ("", "true") else value for name, value in cluster.sbatch.items()}


def setup_lines(job: StageJob, cluster: ClusterConfig) -> list[str]:
    """Return the shell lines before a stage's workers start."""
    plan = quote(job.plan)
    return [
        "umask 077",
        *prologue(cluster),
        *into(job.plan.parents[2]),
        *exports(variables(job, cluster)),
        # a stage is eligible from the moment that its plan was written; what came before is not its queue time
        f'export {variable("submitted_unix")}="$(stat -c %.3Y {plan} 2>/dev/null || echo {job.submitted_unix:.3f})"',
        *_scratch(cluster.scratch),
        *([f"set -a; . {quote(cluster.secrets_file)}; set +a"] if cluster.secrets_file else []),
    ]


def variables(job: StageJob, cluster: ClusterConfig) -> dict[str, str]:
    """Return what the workers' environment adds to that of the submitting shell."""
    ranks = ranks_per_node(job, cluster) if job.launch is Launch.torchrun else 1
    told = JobEnv(
        launch=job.launch.value,
        world_size=None if job.launch is Launch.array else job.world * ranks,
        walltime_s=60 * cluster.time_min if cluster.time_min else None,
        walltime_margin_s=cluster.walltime_margin_s if cluster.time_min else None,
    )
    found = {**common_variables(job), **told.to_env()}
    if job.launch is Launch.torchrun and cluster.interface:
        found |= {"GLOO_SOCKET_IFNAME": cluster.interface, "NCCL_SOCKET_IFNAME": cluster.interface}
    return found


def common_variables(job: StageJob) -> dict[str, str]:
    """Return the variables of workers and gates: one thread a worker, unless the site's own say otherwise.

    Raises ConfigError for one that the run may not set.
    """
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**own, **settable(job.environment), **SAFE_PATH}


def exports(values: Mapping[str, str]) -> list[str]:
    """Return the export lines."""
    return [f"export {name}={quote(value)}" for name, value in values.items()]


def prologue(cluster: ClusterConfig) -> list[str]:
    """Return the site's own shell lines, as they stand. Raises ConfigError for one that holds a line break."""
    for line in cluster.prologue:
        one_line(line)
    return list(cluster.prologue)


def quote(value: object) -> str:
    """Return the value quoted for the shell. Raises ConfigError when it holds a line break."""
    return shlex.quote(one_line(str(value)))


def one_line(text: str) -> str:
    """Return the text. Raises ConfigError when it holds a line break or a NUL."""
    if re.search(r"[\n\r\0]", text):
        raise ConfigError(
            f"{text!r}: a value for a batch script holds a line break, which could smuggle in an #SBATCH "
            "line; remove it"
        )
    return text


def pattern(path: Path) -> str:
    """Return the path as Slurm's --output wants it, where % starts a replacement."""
    return str(path).replace("%", "%%")


def _worker(job: StageJob) -> str:
    return f"{_python(job)} -m rag_hpc.worker {quote(job.plan)} rank"


def _python(job: StageJob) -> str:
    return f"{quote(job.python)} -P"


def _srun(cluster: ClusterConfig) -> str:
    # one dead rank would hold the others; and since 22.05 srun does not inherit --cpus-per-task
    cpus = f" --cpus-per-task={int(cluster.cpus_per_task)}" if cluster.cpus_per_task else ""
    return f"srun --kill-on-bad-exit=1{cpus}"


def _mem(gib: float | None) -> str | None:
    """0 is Slurm's word for all that the node has."""
    return None if gib is None else f"{max(1, round(gib * 1024))}M" if gib else "0"


def _scratch(folder: str | None) -> list[str]:
    """A site's scratch may be named by a variable that only jobs have, such as $TMPDIR or ${SLURM_TMPDIR}/me."""
    if not folder:
        return []
    if matched := _RUN_TIME_PATH.fullmatch(folder):
        return [f'export {variable("scratch")}="${{{matched[1]}}}"{matched[2]}']
    return exports({variable("scratch"): folder})
