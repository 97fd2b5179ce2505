"""One submit lays out the whole chain on Slurm and returns: for each stage its workers, then a gate.

    workers(crawl) --afterany--> gate(crawl) --afterok--> workers(clean) --afterany--> gate(clean) ...

A gate waits for its workers however they end, reads the committed units, and alone decides how it goes on. The first
workers are held until all is queued, so that a failed submit leaves nothing behind that has begun.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.plan import Plan, plan_path
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError, RagHpcError
from rag_hpc.launchers.advance import advance
from rag_hpc.launchers.array import PartlyQueued, submit_array
from rag_hpc.launchers.ledger import Ledger, Request
from rag_hpc.slurm import scripts
from rag_hpc.slurm.client import FORGOTTEN, Slurm, connect
from rag_hpc.slurm.scripts import StageJob
from rag_hpc.slurm.states import DEAD_DEPENDENCY, UNKNOWN, State, of_job
from rag_hpc.stages.registry import stage_class

if TYPE_CHECKING:
    from rag_hpc.config import ClusterConfig

log = logging.getLogger(__name__)
NODE_LOCAL = (Path("/tmp"), Path("/dev/shm"), Path("/var/tmp/slurm"))


def submit(ledger: Ledger, request: Request, *, slurm: Slurm | None = None, after: Ledger | None = None) -> Request:
    """Return the request under its number, its chain queued; no job is queued when every stage is finished.

    With `after`, another run, the chain starts when that run's has ended, however it did; what a gate resubmits of that
    run is a chain of its own, for which nobody waits.

    Jobs that an earlier submission of the run left in the queue are cancelled first; what they committed stays.
    Raises ClusterError when Slurm refuses, and then leaves nothing queued.
    """
    cluster = cluster_of(request)
    slurm = slurm or connect(cluster.name, cluster.slurm_conf)
    slurm.require()
    check_places(ledger, cluster)
    num_nodes = slurm.check_partition(cluster.partition)
    cancel_leftovers(ledger, slurm)
    with private_files():
        request = ledger.submit(request)
        progress = advance(ledger, request)
        if progress.open_plan is None:
            log.info("%s: every stage is finished already, nothing is queued", ledger.name)
            return request
        begun = time.monotonic()
        chain = Chain(ledger, request, cluster, slurm)
        chain.lay_out(stage_jobs(ledger, request, num_nodes, progress.open_plan), last_gate(after))
        log.info("%s: %d jobs queued in %.2f s", ledger.name, len(chain.ids), time.monotonic() - begun)
    return request


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Make what is written meanwhile the owner's alone, as the jobs' `umask 077` does."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


class Chain:
    """The queued jobs of one submission."""

    def __init__(self, ledger: Ledger, request: Request, cluster: ClusterConfig, slurm: Slurm) -> None:
        self._ledger, self._number, self._cluster, self._slurm = ledger, request.number, cluster, slurm
        self.ids: list[str] = []

    def lay_out(self, jobs: list[StageJob], after: str | None = None) -> None:
        """Queue every stage's workers and gate, to start after job `after`; all are cancelled when one is refused."""
        try:
            max_size = self._max_array_size(jobs)
            dependency = f"afterany:{after}" if after else None
            for job in jobs:
                workers = self._workers(job, dependency, max_size, hold=job is jobs[0])
                self._note(job, "workers", workers, p=job.world)
                gate = self._slurm.submit(scripts.gate_script(job, self._cluster),
                                          args=[f"--dependency=afterany:{':'.join(workers)}"])
                self._note(job, "gate", [gate])
                dependency = f"afterok:{gate}"
                if job is jobs[0]:
                    held = workers
            self._slurm.release(held)
            self._ledger.add_job(self._number, stage=jobs[0].stage, kind="released", ids=[])
        except BaseException as error:  # Ctrl-C too: half a chain is of no use
            self.ids += error.ids if isinstance(error, PartlyQueued) else []
            self._slurm.cancel(self.ids)
            raise

    def _workers(self, job: StageJob, dependency: str | None, max_size: int, hold: bool) -> list[str]:
        job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if job.launch is Launch.array:
            return submit_array(job, self._cluster, self._slurm.env, max_size=max_size, dependency=dependency,
                                hold=hold)
        make = scripts.torchrun_script if job.launch is Launch.torchrun else scripts.mpi_script
        flags = [f"--dependency={dependency}"] * bool(dependency) + ["--hold"] * hold
        return [self._slurm.submit(make(job, self._cluster), args=flags)]

    def _note(self, job: StageJob, kind: str, ids: list[str], **more: Any) -> None:
        self.ids += ids
        self._ledger.add_job(self._number, stage=job.stage, kind=kind, ids=ids, **more)

    def _max_array_size(self, jobs: list[StageJob]) -> int:
        largest = max((job.world for job in jobs if job.launch is Launch.array), default=1)
        limit = self._slurm.max_array_size() if largest > 1 else None
        return min(self._cluster.max_array_size, limit or self._cluster.max_array_size)


def last_gate(ledger: Ledger | None) -> str | None:
    """Return the job that ends a run's latest chain, None when it has none."""
    number = ledger.submissions()[-1:] if ledger else []
    gates = [job["ids"][0] for job in ledger.jobs(number[0]) if job["kind"] == "gate"] if ledger and number else []
    return gates[-1] if gates else None


def stage_jobs(ledger: Ledger, request: Request, num_nodes: int | None, open_plan: Plan | None) -> list[StageJob]:
    """Return the jobs of the stages that are not finished; `open_plan` is of the first of them.

    `num_nodes`: of the partition, None when it is not known.
    """
    first = request.stages.index(open_plan.stage) if open_plan else 0
    jobs = []
    for stage in request.stages[first:]:
        units = len(open_plan.units) if open_plan and stage == open_plan.stage else None
        jobs.append(_stage_job(ledger, request, stage, num_nodes, units))
    return jobs


def cluster_of(request: Request) -> ClusterConfig:
    """Return the site's settings in a request, checked."""
    from rag_hpc.config import ClusterConfig
    from rag_hpc.schema import from_plain

    return from_plain(ClusterConfig, request.cluster)


def check_places(ledger: Ledger, cluster: ClusterConfig) -> None:
    """Raise ConfigError for a run's folder that nodes cannot see, or a file of secrets that others can read."""
    local = [folder for folder in NODE_LOCAL if folder in ledger.run_dir.parents]
    if local:
        raise ConfigError(f"{ledger.run_dir}: each node has a {local[0]} of its own, so jobs would not find the run; "
                          "start from another folder, or set cluster.root to one that all nodes see")
    scripts.one_line(str(ledger.run_dir))
    if cluster.secrets_file:
        check_secrets(Path(cluster.secrets_file))


def check_secrets(path: Path) -> None:
    """Raise ConfigError unless the file is ours and nobody else can read it."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"cluster.secrets_file={path}: {error.strerror}; give the full path of a file of NAME=value "
                          "lines") from None
    if not path.is_absolute():
        raise ConfigError(f"cluster.secrets_file={path}: give the full path, jobs may start elsewhere")
    if found.st_mode & 0o077 or found.st_uid != os.getuid():
        raise ConfigError(f"cluster.secrets_file={path}: others can read it; run: chmod 600 {path}")


def cancel_leftovers(ledger: Ledger, slurm: Slurm) -> list[str]:
    """Return the ids of earlier jobs of the run that were still in the queue and are cancelled now.

    Each submission does this before it takes a number, so only the latest one can have any. A gate that resubmits
    leaves itself out.
    """
    known = ledger.submissions()
    found = live_ids(ledger, slurm, known[-1]) if known else []
    found = [job_id for job_id in found if job_id != os.environ.get("SLURM_JOB_ID")]
    if found:
        log.warning("%s: jobs of submission %d are cancelled: %s", ledger.name, known[-1], ", ".join(found))
        slurm.cancel(found)
    return found


def live_ids(ledger: Ledger, slurm: Slurm, number: int, cache: Path | None = None) -> list[str]:
    """Return the ids of a submission's jobs that wait or run. An id that another's job got meanwhile is not ours."""
    ids = [job_id for job in ledger.jobs(number) for job_id in job.get("ids", [])]
    prefix = scripts.job_name(ledger.name, "")
    states = slurm.states(ids, cache=cache)
    live = {key.partition("_")[0] for key, state in states.items() if state.live and state.name.startswith(prefix)}
    return [job_id for job_id in ids if job_id in live]


def job_lines(ledger: Ledger, request: Request) -> list[dict[str, Any]]:
    """Return what the scheduler says of a submission's jobs that have not ended: job, stage, kind, state, reason.

    It is asked at most every 30 s; one that cannot be asked gives a line whose state is UNKNOWN.
    """
    gone = ledger.outcomes(request.number)  # these are over, whatever the scheduler was last heard to say
    if any(value["outcome"] != "passed" for value in gone.values()):
        return []
    jobs = [(job, job_id) for job in ledger.jobs(request.number) for job_id in job.get("ids", [])
            if job["stage"] not in gone and job["kind"] in ("workers", "gate")]
    try:
        slurm = connect(request.cluster["name"], request.cluster["slurm_conf"])
        states = slurm.states([job_id for _, job_id in jobs], cache=ledger.folder(request.number) / "states.json")
    except RagHpcError as error:
        return [{"job": "?", "stage": "", "kind": "", "state": UNKNOWN, "reason": str(error)}]
    lines = []
    for job, job_id in jobs:
        tasks = [state for state in of_job(states, job_id).values() if not state.ended]
        if tasks and any(state.live or state.reason != FORGOTTEN for state in tasks):
            lines.append({"job": job_id, "stage": job["stage"], "kind": job["kind"], "state": _counted(tasks),
                          "reason": _reason(tasks, ledger.handle)})
    return lines


def _counted(tasks: Sequence[State]) -> str:
    """Return 'RUNNING', or for an array '3 RUNNING, 1 PENDING'."""
    words = [task.state for task in tasks]
    if len(words) == 1:
        return words[0]
    return ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))


def _reason(tasks: Sequence[State], run: str) -> str:
    reasons = sorted({task.reason for task in tasks if task.reason})
    if DEAD_DEPENDENCY in reasons:
        return f"{DEAD_DEPENDENCY}: what it waits for has failed, it will never run; clear it: rag-hpc retry run={run}"
    return ", ".join(reasons)


def _stage_job(ledger: Ledger, request: Request, stage: str, num_nodes: int | None, units: int | None) -> StageJob:
    cls = stage_class(stage)
    launch, world = cls.launch, request.workers
    if not cls.collective:  # ranks of a collective stage all work on each unit
        world = min(world, units or world)
    nodes = None
    if launch is Launch.torchrun and num_nodes:
        world = min(world, num_nodes)
    if launch is not Launch.array and (num_nodes is None or world <= num_nodes):
        nodes = world
    wants_gpu = launch is Launch.torchrun
    if world == 1:
        launch = Launch.array  # a lone process needs no rendezvous
    return StageJob(
        run=ledger.name, stage=stage, launch=launch, world=world, num_nodes=nodes,
        plan=plan_path(ledger.run_dir, request.number, stage), python=request.python,
        submitted_unix=request.submitted_unix, environment=request.environment, wants_gpu=wants_gpu)
