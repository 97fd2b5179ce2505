"""The texts of batch scripts, as pure functions: nothing is read or sent here.

Every value is quoted for the shell, and one that holds a line break is refused: it could smuggle in an #SBATCH line.
Flags that nobody set are not sent.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError

if TYPE_CHECKING:
    from rag_hpc.config import ClusterConfig

GATE_TIME_MIN = 60  # a gate reads every byte of its stage once, to verify it
GATE_MEM_GIB = 4.0
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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

    @property
    def name(self) -> str:
        """The job's name, which says at a glance in squeue whose it is."""
        return job_name(self.run, self.stage)


def job_name(run: str, stage: str) -> str:
    """Return a name that needs no quoting anywhere: rh-RUN-STAGE."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"rh-{run}-{stage}")[:120]


def torchrun_script(job: StageJob, cluster: ClusterConfig) -> str:
    """Return the script of a torchrun job: one task a node, rank 0 beside the rendezvous on the batch host."""
    python = quote(job.python)
    lines = [
        'head="$(hostname)"',
        f'port="$({python} -m rag_hpc.launchers.ports)" || exit 1',
        f"exec {_srun(cluster)} {python} -m torch.distributed.run --nnodes \"$SLURM_NNODES\" --nproc-per-node 1"
        ' --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:$port"'
        f" --no-python {_worker(job)}",
    ]
    flags = {**stage_flags(job, cluster), "nodes": job.num_nodes or job.world, "ntasks-per-node": 1}
    return script(flags, [*setup_lines(job, cluster), *lines])


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
        **site_flags(cluster), "job-name": f"{job.name}.gate", "ntasks": 1, "open-mode": "append",
        "output": pattern(submission / "gates.log"),
        "time": min(GATE_TIME_MIN, cluster.time_min) if cluster.time_min else None,
        "mem": _mem(min(GATE_MEM_GIB, cluster.mem_gib)) if cluster.mem_gib else None,
    }
    run_dir = submission.parents[1]
    start = (f"exec {quote(job.python)} -m rag_hpc.launchers.gate {quote(run_dir)} {int(submission.name)}"
             f" {quote(job.stage)}")
    return script(flags, ["umask 077", *prologue(cluster), *into(run_dir), *exports(common_variables(job)), start])


def script(flags: Mapping[str, object], lines: Sequence[str]) -> str:
    """Return a whole batch script; flags that are None are left out."""
    header = [f"#SBATCH --{name}={quote(value)}" for name, value in flags.items() if value is not None]
    return "\n".join(["#!/bin/bash", *header, "", *lines, ""])


def stage_flags(job: StageJob, cluster: ClusterConfig) -> dict[str, object]:
    """Return the flags of a stage's workers, without how many there are."""
    return {
        **site_flags(cluster), "job-name": job.name, "open-mode": "append",
        "output": pattern(job.folder / f"{job.stage}.") + "%j.log",
        "gres": cluster.gres if job.wants_gpu else None, "time": cluster.time_min,
        "mem": _mem(cluster.mem_gib), "cpus-per-task": cluster.cpus_per_task,
    }


def into(run_dir: Path) -> list[str]:
    """Return the line that enters the run's folder: `python -m` would import what lies in the folder of the submit."""
    return [f"cd -- {quote(run_dir)} || exit 2"]


def site_flags(cluster: ClusterConfig) -> dict[str, object]:
    """Return what every job of the site carries."""
    return {name: getattr(cluster, name)
            for name in ("account", "partition", "qos", "constraint", "reservation", "exclude")}


def setup_lines(job: StageJob, cluster: ClusterConfig) -> list[str]:
    """Return the shell lines before a stage's workers start."""
    plan = quote(job.plan)
    return [
        "umask 077",
        *prologue(cluster),
        *into(job.plan.parents[2]),
        *exports(variables(job, cluster)),
        # a stage is eligible from the moment that its plan was written; what came before is not its queue time
        f'export RAG_HPC_SUBMITTED_UNIX="$(stat -c %.3Y {plan} 2>/dev/null || echo {job.submitted_unix:.3f})"',
        *_scratch(cluster.scratch),
        *([f"set -a; . {quote(cluster.secrets_file)}; set +a"] if cluster.secrets_file else []),
    ]


def variables(job: StageJob, cluster: ClusterConfig) -> dict[str, str]:
    """Return what the workers' environment adds to that of the submitting shell."""
    found = {**common_variables(job), "RAG_HPC_LAUNCH": job.launch.value}
    if job.launch is not Launch.array:
        found["RAG_HPC_WORLD_SIZE"] = str(job.world)
    if job.launch is Launch.torchrun and cluster.interface:
        found |= {"GLOO_SOCKET_IFNAME": cluster.interface, "NCCL_SOCKET_IFNAME": cluster.interface}
    if cluster.time_min:
        found |= {"RAG_HPC_WALLTIME_S": str(60 * cluster.time_min),
                  "RAG_HPC_WALLTIME_MARGIN_S": str(cluster.walltime_margin_s)}
    return found


def common_variables(job: StageJob) -> dict[str, str]:
    """Return the variables of workers and gates: one thread a worker, unless the site's own say otherwise."""
    return {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", **job.environment}


def exports(values: Mapping[str, str]) -> list[str]:
    """Return the export lines. Raises ConfigError for a name that the shell would not take."""
    bad = [name for name in values if not _VARIABLE.fullmatch(name)]
    if bad:
        raise ConfigError(f"cluster.env: {bad[0]!r} is no name of a variable; use letters, digits and '_'")
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
        raise ConfigError(f"{text!r}: a value for a batch script holds a line break, which could smuggle in an #SBATCH "
                          "line; remove it")
    return text


def pattern(path: Path) -> str:
    """Return the path as Slurm's --output wants it, where % starts a replacement."""
    return str(path).replace("%", "%%")


def _worker(job: StageJob) -> str:
    return f"{quote(job.python)} -m rag_hpc.worker {quote(job.plan)} rank"


def _srun(cluster: ClusterConfig) -> str:
    # one dead rank would hold the others; and since 22.05 srun does not inherit --cpus-per-task
    cpus = f" --cpus-per-task={int(cluster.cpus_per_task)}" if cluster.cpus_per_task else ""
    return f"srun --kill-on-bad-exit=1{cpus}"


def _mem(gib: float | None) -> str | None:
    return f"{round(gib * 1024)}M" if gib else None


def _scratch(folder: str | None) -> list[str]:
    """A site's scratch may be named by a variable that only jobs have, such as $TMPDIR or ${SLURM_TMPDIR}/me."""
    if not folder:
        return []
    if matched := _RUN_TIME_PATH.fullmatch(folder):
        return [f'export RAG_HPC_SCRATCH="${{{matched[1]}}}"{matched[2]}']
    return [f"export RAG_HPC_SCRATCH={quote(folder)}"]
