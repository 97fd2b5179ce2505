"""What a run would start: the exact batch scripts, or the commands on this machine. Nothing is written or queued."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.core.plan import plan_path
from rag_hpc.core.stage import Launch
from rag_hpc.errors import RagHpcError
from rag_hpc.launchers import local
from rag_hpc.launchers.array import array_texts
from rag_hpc.launchers.chain import check_places, cluster_of, stage_jobs
from rag_hpc.launchers.ledger import Ledger, Request
from rag_hpc.slurm import scripts
from rag_hpc.slurm.scripts import StageJob
from rag_hpc.stages.registry import make_stage, stage_class

if TYPE_CHECKING:
    from rag_hpc.config import ClusterConfig, RunConfig


def show(ledger: Ledger, request: Request, config: RunConfig, after: Ledger | None = None) -> str:
    """Return the scripts of every stage in the order in which they would be queued; no folder is made for the run.

    `after`: the run of a sweep whose chain has to end first.

    Stages that are finished already are skipped by the run itself, which alone can tell.
    """
    from rag_hpc.config import Launcher

    number = ([0, *ledger.submissions()])[-1] + 1
    request = dataclasses.replace(request, number=number, submitted_unix=0.0)
    head = [f"# run {ledger.name}, submission {number}, in {ledger.run_dir}",
            f"# {', '.join(request.stages)}; {request.stages[0]} has {_num_units(request)} units"]
    if config.cluster.launcher is Launcher.slurm:
        return "\n".join(head + _scripts(ledger, request, after))
    return "\n".join(head + _commands(ledger, request)) + "\n"


def _scripts(ledger: Ledger, request: Request, after: Ledger | None) -> list[str]:
    cluster = cluster_of(request)
    check_places(ledger, cluster)
    parts: list[str] = []
    dependency = f"afterany:LAST_GATE_OF_{after.name}" if after else None
    jobs = stage_jobs(ledger, request, None, None)
    for job in jobs:
        hold = job is jobs[0]
        for text in _worker_texts(job, cluster, dependency, hold):
            flags = [f"--dependency={dependency}"] * bool(dependency) + ["--hold"] * hold
            parts += [f"\n### {job.stage}: {job.world} by {job.launch.value}; sbatch {' '.join(flags)}", text]
        parts += [f"### {job.stage}: gate; sbatch --dependency=afterany:WORKERS_OF_{job.stage}",
                  scripts.gate_script(job, cluster)]
        dependency = f"afterok:GATE_OF_{job.stage}"
    return parts


def _worker_texts(job: StageJob, cluster: ClusterConfig, dependency: str | None, hold: bool) -> list[str]:
    if job.launch is Launch.array:
        return array_texts(job, cluster, max_size=cluster.max_array_size, dependency=dependency, hold=hold)
    make = scripts.torchrun_script if job.launch is Launch.torchrun else scripts.mpi_script
    return [make(job, cluster)]


def _commands(ledger: Ledger, request: Request) -> list[str]:
    lines = []
    for stage in request.stages:
        path = plan_path(ledger.run_dir, request.number, stage)
        lines.append(f"\n### {stage}")
        commands = local.worker_commands(stage_class(stage).launch, path, request.workers)
        lines += [shlex.join(words) for words in commands]
    return lines


def _num_units(request: Request) -> str:
    """Return the number of units of the first stage, the only one whose input is there; a source may need a folder."""
    stage = make_stage(request.stages[0], request.settings[request.stages[0]])
    if stage.needs:
        return "unknown"
    try:
        with tempfile.TemporaryDirectory() as folder:
            return str(len(stage.plan({}, Path(folder))))
    except RagHpcError as error:
        return f"no units that could be planned here ({error}), so"
