"""Array jobs through submitit: one task a worker. What is pickled is a plan's path and a worker's index, no more.

submitit brings the script and the array; its own submit, its checkpoints, its signal handlers and its result files are
not used: the worker handles signals itself, exits non-zero when anything failed, and completion is read from committed
units.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError
from rag_hpc.slurm import scripts
from rag_hpc.slurm.scripts import StageJob

if TYPE_CHECKING:
    from rag_hpc.slurm.client import Slurm
    from rag_hpc.slurm.cluster import ClusterConfig


def run_worker(plan: str, index: int) -> None:
    """Run one worker; never returns, so that submitit writes no result and the task's exit code is the worker's."""
    from rag_hpc.worker import main

    code = main([plan, str(index)])
    if code == 0:
        from rag_hpc.launchers.gate import let_go

        let_go(Path(plan))
    sys.exit(code)


def submit_array(
    job: StageJob, cluster: ClusterConfig, slurm: Slurm, *, max_size: int, dependency: str | None = None
) -> list[str]:
    """Return the ids of the queued arrays, which are held: one for each `max_size` workers."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    ids = []
    folder = job.folder / job.stage
    texts = array_texts(job, cluster, max_size=max_size, dependency=dependency)
    with private_files():  # pickles are ours alone, also in a run that its group may read
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for text, indices in zip(texts, blocks(job.world, max_size), strict=True):
            job_id = slurm.submit(text)  # submitit's own submit takes the first number that a site's sbatch prints
            for task, index in enumerate(indices):
                task_id = f"{job_id}_{task}" if len(indices) > 1 else job_id
                DelayedSubmission(run_worker, str(job.plan), index).dump(JobPaths(folder, task_id).submitted_pickle)
            ids.append(job_id)
    return ids


def array_texts(job: StageJob, cluster: ClusterConfig, *, max_size: int, dependency: str | None = None) -> list[str]:
    """Return the scripts that `submit_array` sends."""
    texts = []
    executor = _executor(job, cluster, dependency)
    for indices in blocks(job.world, max_size):
        executor.parameters["map_count"] = len(indices) if len(indices) > 1 else None
        texts.append(str(executor._make_submission_file_text(executor._submitit_command_str, "")))
    return texts


def drop_pickles(jobs: Path) -> None:
    """Remove what submitit's arrays left that is no log, and the folders that are empty then; `jobs` as StageJob's."""
    for folder in filter(Path.is_dir, jobs.glob("*")):
        for path in folder.glob("*.pkl*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are logs in it
            folder.rmdir()


def blocks(num_workers: int, max_size: int) -> list[list[int]]:
    """Return the workers' indices in contiguous blocks of at most `max_size`."""
    return [list(range(start, min(start + max_size, num_workers))) for start in range(0, num_workers, max_size)]


def parameters(job: StageJob, cluster: ClusterConfig, dependency: str | None) -> dict[str, Any]:
    """Return submitit's parameters; None is a flag that is not sent."""
    flags = scripts.stage_flags(job, cluster)
    for value in flags.values():
        scripts.one_line(str(value))
    names = ("account", "partition", "qos", "constraint", "exclude", "gres", "time", "mem")
    others = (*cluster.sbatch, "reservation", *scripts.AFTER_A_GATE)
    additional = {name: flags[name] for name in others if flags[name] is not None}
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    return {
        **{name: flags[name] for name in names},
        "job_name": job.name(),
        "wckey": None,
        "cpus_per_task": cluster.cpus_per_task,
        "signal_delay_s": signal_delay_s(cluster),
        "dependency": dependency,
        "array_parallelism": cluster.array_parallelism,
        "stderr_to_stdout": True,
        "setup": scripts.setup_lines(job, cluster),
        "srun_args": ["--open-mode=append", *cpus],  # srun truncates after a requeue, whatever sbatch was told
        "additional_parameters": {**additional, "hold": True},
    }


def signal_delay_s(cluster: ClusterConfig) -> int:
    """Return how long before the walltime Slurm sends its signal: the margin, but never more than half the walltime."""
    return min(cluster.walltime_margin_s, 30 * cluster.time_min) if cluster.time_min else cluster.walltime_margin_s


def _executor(job: StageJob, cluster: ClusterConfig, dependency: str | None) -> Any:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """submitit's own, which can also be asked for its text where there is no Slurm."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    folder = job.folder / job.stage
    if any(c in str(folder) for c in "%\\"):
        raise ConfigError(
            f"{folder}: Slurm reads '%' and '\\' in the path of a log as patterns; choose another cluster.root"
        )
    executor = Executor(folder=folder, python=shlex.quote(job.python))
    executor.update_parameters(**parameters(job, cluster, dependency))
    return executor
