"""Array jobs through submitit: one task a worker. What is pickled is a plan's path and a worker's index, no more.

submitit brings the script and the array; its checkpoints, its signal handlers and its result files are not used:
the worker handles signals itself, exits non-zero when anything failed, and completion is read from committed units.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rag_hpc.errors import ClusterError, ConfigError
from rag_hpc.slurm import scripts
from rag_hpc.slurm.client import RETRY_S, explain, is_transient
from rag_hpc.slurm.scripts import StageJob

if TYPE_CHECKING:
    from rag_hpc.config import ClusterConfig


def run_worker(plan: str, index: int) -> None:
    """Run one worker; never returns, so that submitit writes no result and the task's exit code is the worker's."""
    from rag_hpc.worker import main

    sys.exit(main([plan, str(index)]))


def submit_array(job: StageJob, cluster: ClusterConfig, env: Mapping[str, str], *, max_size: int,
                 dependency: str | None = None, hold: bool = False) -> list[str]:
    """Return the ids of the queued arrays: one for each `max_size` workers. `env`: what sbatch and the jobs inherit.

    Raises PartlyQueued with Slurm's words and the ids of the arrays that were queued before.
    """
    ids: list[str] = []
    with environment(env), contextlib.redirect_stderr(io.StringIO()):
        executor = _executor(job, cluster, dependency, hold)
        executor.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for indices in blocks(job.world, max_size):
            try:
                ids.append(_map_array(executor, str(job.plan), indices))
            except ClusterError as error:
                raise PartlyQueued(str(error), ids) from error
    return ids


def array_texts(job: StageJob, cluster: ClusterConfig, *, max_size: int, dependency: str | None = None,
                hold: bool = False) -> list[str]:
    """Return the scripts that `submit_array` would send."""
    texts = []
    executor = _executor(job, cluster, dependency, hold)
    for indices in blocks(job.world, max_size):
        executor.parameters["map_count"] = len(indices) if len(indices) > 1 else None
        texts.append(str(executor._make_submission_file_text(executor._submitit_command_str, "")))
    return texts


class PartlyQueued(ClusterError):
    """An array could not be queued; `ids` are those that were queued before it."""

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


def blocks(num_workers: int, max_size: int) -> list[list[int]]:
    """Return the workers' indices in contiguous blocks of at most `max_size`."""
    return [list(range(start, min(start + max_size, num_workers))) for start in range(0, num_workers, max_size)]


def parameters(job: StageJob, cluster: ClusterConfig, dependency: str | None, hold: bool) -> dict[str, Any]:
    """Return submitit's parameters; None is a flag that is not sent."""
    flags = scripts.stage_flags(job, cluster)
    for value in flags.values():
        scripts.one_line(str(value))
    names = ("account", "partition", "qos", "constraint", "exclude", "gres", "time", "mem")
    additional = {name: flags[name] for name in ("reservation",) if flags[name] is not None}
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    return {
        **{name: flags[name] for name in names}, "job_name": job.name, "wckey": None,
        "cpus_per_task": cluster.cpus_per_task, "signal_delay_s": signal_delay_s(cluster), "dependency": dependency,
        "array_parallelism": cluster.array_parallelism, "stderr_to_stdout": True,
        "setup": scripts.setup_lines(job, cluster),
        "srun_args": ["--open-mode=append", *cpus],  # srun truncates after a requeue, whatever sbatch was told
        "additional_parameters": {**additional, **({"hold": True} if hold else {})},
    }


def signal_delay_s(cluster: ClusterConfig) -> int:
    """Return how long before the walltime Slurm sends its signal: the margin, but never more than half the walltime."""
    return min(cluster.walltime_margin_s, 30 * cluster.time_min) if cluster.time_min else cluster.walltime_margin_s


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Replace this process's environment for a while: submitit finds sbatch and SLURM_CONF nowhere else."""
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _executor(job: StageJob, cluster: ClusterConfig, dependency: str | None, hold: bool) -> Any:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """submitit's own, which can also be asked for its text where there is no Slurm."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    folder = job.folder / job.stage
    if any(c in str(folder) for c in "%\\"):
        raise ConfigError(f"{folder}: Slurm reads '%' and '\\' in the path of a log as patterns; "
                          "choose another cluster.root")
    executor = Executor(folder=folder, python=shlex.quote(job.python))
    executor.update_parameters(**parameters(job, cluster, dependency, hold))
    return executor


def _map_array(executor: Any, plan: str, indices: list[int], sleep: Callable[[float], None] = time.sleep) -> str:
    """Return the id of the array; a controller that cannot be reached is asked again after each pause."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for pause_s in (*RETRY_S, None):
        try:
            tasks = executor.map_array(run_worker, [plan] * len(indices), indices)
        except (FailedJobError, FailedSubmissionError) as error:
            if pause_s is None or not is_transient(str(error)):
                raise ClusterError(explain("sbatch", str(error))) from error
            sleep(pause_s)
        else:
            return str(tasks[0].job_id).split("_")[0]
    raise AssertionError("unreachable: the last try returns or raises")
