"""What a run would start: the exact batch scripts, or the commands on this machine, and what they add up to.

Nothing is written or queued; Slurm, where there is one, is asked what it would be asked by the run itself.
"""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.ledger import Ledger, Request, Submission
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ClusterError, ConfigError, MissingDependency, RagHpcError, UnitFailed
from rag_hpc.launchers import local
from rag_hpc.launchers.advance import Progress, foresee
from rag_hpc.launchers.array import array_texts
from rag_hpc.launchers.chain import check_places, check_sites, cluster_of, max_array_size, slurm_of, stage_jobs
from rag_hpc.slurm import scripts
from rag_hpc.slurm.scripts import StageJob
from rag_hpc.slurm.states import parse_gres
from rag_hpc.stages.registry import stage_class

if TYPE_CHECKING:
    from rag_hpc.slurm.client import Slurm
    from rag_hpc.slurm.cluster import ClusterConfig

WIDTH = 80
UNIT_FILES = 3  # at most, of a committed unit; what a run and a stage have beside them: core.ledger
RUN_FILES, STAGE_FILES = 3, 3  # run.json, submission.json, jobs.jsonl; plan, log, manifest
SLURM_RUN_FILES, SLURM_STAGE_FILES = 2, 1  # further ones: gates.log, states.json; outcome
TASK_FILES = 2  # of an array while its stage runs: log and pickle


def show(ledger: Ledger, request: Request, after: Ledger | None = None) -> str:
    """Return what would be queued or started, in order, and the totals; no folder is made for the run.

    `after`: the run of a sweep whose chain has to end first. Raises what the run itself would raise before it begins.
    """
    number = ([0, *ledger.submissions()])[-1] + 1
    submission = Submission(ledger, dataclasses.replace(request, number=number, submitted_unix=0.0))
    progress, trouble = _foreseen(submission)
    head = [f"run {ledger.name}, submission {number}, in {ledger.run_dir}", ", ".join(request.stages)]
    if progress.finished:
        head.append(f"finished already: {', '.join(progress.finished)}")
    if len(progress.finished) == len(request.stages):
        return _remarks([*head, "every stage is finished: nothing is to be done"]) + "\n"
    first = request.stages[len(progress.finished)]
    head.append(trouble or f"{first} has {_num_units(progress)} units")
    body = _on_slurm(submission, progress, after) if request.on_slurm else _here(submission, progress)
    return "\n".join([_remarks(head), *body])


def _foreseen(submission: Submission) -> tuple[Progress, str]:
    """Return how far the run is; and why the units of its next stage are not known, if they are not."""
    there, stage = submission.run_dir.is_dir(), submission.request.stages[0]
    if stage_class(stage).needs:
        return Progress(), f"{stage} has an unknown number of units: what it needs is not there"
    try:
        with tempfile.TemporaryDirectory() as folder:  # a source may need one for what it lists
            return foresee(submission, submission.run_dir if there else Path(folder)), ""
    except (ConfigError, UnitFailed):
        raise
    except RagHpcError as error:
        return Progress(), f"{stage} has an unknown number of units ({error}); as many tasks as workers are shown"


def _num_units(progress: Progress) -> int:
    return len(progress.open_plan.units) if progress.open_plan else 0


def _on_slurm(submission: Submission, progress: Progress, after: Ledger | None) -> list[str]:
    cluster = cluster_of(submission.request)
    check_places(submission.ledger, cluster)
    slurm = _slurm_here(submission.request)
    nodes = check_sites(submission.request.stages, cluster, slurm) if slurm else {}
    jobs = stage_jobs(submission, nodes, progress.open_plan)
    max_size = max_array_size(jobs, cluster, slurm) if slurm else cluster.max_array_size
    parts: list[str] = []
    num_jobs = 0
    dependency = f"afterany:LAST_GATE_OF_{after.name}" if after else None
    for job in jobs:
        texts = _worker_texts(job, cluster.of(job.stage), max_size, dependency)
        num_jobs += len(texts) + 1
        for text in texts:
            flags = [f"--dependency={dependency}"] * bool(dependency) + ["--hold"]
            parts += ["\n" + _title(f"{job.stage}: {job.world} by {job.launch.value}", flags), text]
        flags = [f"--dependency=afterany:WORKERS_OF_{job.stage}", "--hold"]
        parts += [_title(f"{job.stage}: gate", flags), scripts.gate_script(job, cluster)]
        dependency = f"afterok:GATE_OF_{job.stage}"
    unasked = ["no Slurm was asked: partitions, walltimes and GPUs are not checked here"] * (slurm is None)
    return [*parts, *_table(jobs, cluster), _remarks([*_totals(jobs, cluster, num_jobs, progress), *unasked]), ""]


def _slurm_here(request: Request) -> Slurm | None:
    """Return the client of the request's site, None where it has no commands or does not answer."""
    try:
        slurm = slurm_of(request)
        slurm.require()
    except (MissingDependency, ClusterError):
        return None
    return slurm if slurm.answers() else None


def _worker_texts(job: StageJob, site: ClusterConfig, max_size: int, dependency: str | None) -> list[str]:
    if job.launch is Launch.array:
        return array_texts(job, site, max_size=max_size, dependency=dependency)
    make = scripts.torchrun_script if job.launch is Launch.torchrun else scripts.mpi_script
    return [make(job, site)]


def _table(jobs: Sequence[StageJob], cluster: ClusterConfig) -> list[str]:
    """Return a line for each stage: what its workers ask for."""
    lines = [f"# {'stage':<17}{'by':<9}{'tasks':>6}{'nodes':>6}  {'walltime':<9}{'partition':<14}gres"]
    for job in jobs:
        site = cluster.of(job.stage)
        minutes = "" if site.time_min is None else f"{site.time_min} min"
        gres = (site.gres or "") if job.wants_gpu else ""
        nodes = job.world if job.launch is Launch.array else job.num_nodes or "any"
        row = f"# {job.stage:<17}{job.launch.value:<9}{job.world:>6}{nodes:>6}  {minutes:<9}{site.partition or '':<14}"
        lines.append(f"{row}{gres}".rstrip())
    return lines


def _totals(jobs: Sequence[StageJob], cluster: ClusterConfig, num_jobs: int, progress: Progress) -> list[str]:
    tasks, gates = sum(job.world for job in jobs), len(jobs)
    most = TASK_FILES * max(job.world for job in jobs)
    beside = RUN_FILES + SLURM_RUN_FILES + gates * (STAGE_FILES + SLURM_STAGE_FILES)
    return [
        f"totals: {num_jobs} jobs ({num_jobs - gates} of workers, {gates} gates), {tasks + gates} tasks",
        _hours(jobs, cluster),
        f"{_files(progress, beside)}; and while a stage runs {TASK_FILES} a task, at most {most}",
    ]


def _hours(jobs: Sequence[StageJob], cluster: ClusterConfig) -> str:
    """Return the CPU- and GPU-hours of jobs that take all of their walltime."""
    gate_min = scripts.gate_time_min(cluster)
    cpu_min, gpu_min = len(jobs) * (gate_min or 0), 0
    for job in jobs:
        site = cluster.of(job.stage)
        if site.time_min is None or gate_min is None:
            return f"CPU- and GPU-hours: no limit is asked for; set {cluster.key_of(job.stage, 'time_min')}"
        nodes = job.num_nodes if job.num_nodes and job.launch is not Launch.array else job.world
        gpus = sum(num for (name, _), num in parse_gres(site.gres or "").items() if name == "gpu" and job.wants_gpu)
        cpu_min += site.time_min * job.world * (site.cpus_per_task or 1)
        gpu_min += site.time_min * nodes * gpus
    return (
        f"at most {cpu_min / 60:.1f} CPU-hours and {gpu_min / 60:.1f} GPU-hours, if every task takes its whole "
        "walltime; what a gate has to submit again comes on top"
    )


def _here(submission: Submission, progress: Progress) -> list[str]:
    """Return the commands of the stages that are not finished: for the first one as many as it has units, at most."""
    stages, workers = submission.request.stages[len(progress.finished) :], submission.request.workers
    lines, most = [], 0
    for number, stage in enumerate(stages):
        launch = stage_class(stage).launch
        known = progress.open_plan if number == 0 else None
        num = local.num_workers(launch, workers, known)
        lines.append(f"\n### {stage}")
        if not known and num > 1 and launch is not Launch.mpi:
            lines.append(f"# {num} workers, fewer if it has fewer units")
        lines += [shlex.join(words) for words in local.worker_commands(launch, submission.plan_path(stage), num)]
        most = max(most, num)
    totals = f"totals: {len(stages)} stages one after another, at most {most} processes of this machine at a time"
    beside = RUN_FILES + len(stages) * STAGE_FILES
    return [*lines, "", _remarks([totals, _files(progress, beside)]), ""]


def _files(progress: Progress, beside: int) -> str:
    plan = progress.open_plan
    known = f" ({plan.stage}: {UNIT_FILES * len(plan.units)})" if plan else ""
    return f"files: at most {UNIT_FILES} a unit of each stage{known}, and {beside} beside them"


def _title(what: str, flags: Sequence[str]) -> str:
    """Return the line above a script, in two where it is long."""
    said = f"### {what}; sbatch {' '.join(flags)}"
    return said if len(said) <= WIDTH else said.replace("; sbatch ", ";\n###     sbatch ", 1)


def _remarks(lines: Sequence[str]) -> str:
    """Return lines as remarks of a shell, none wider than a narrow terminal, unless it is one word."""
    look: dict[str, Any] = {"width": WIDTH, "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, initial_indent="# ", subsequent_indent="#   ", **look) for line in lines)
