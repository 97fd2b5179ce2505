"""One submit lays out the whole chain on Slurm and returns: for each stage its workers, then a gate.

    workers(crawl) --afterany--> gate(crawl) --afterok--> workers(clean) --afterany--> gate(clean) ...

A gate waits for its workers however they end, reads the committed units, and alone decides how it goes on. All jobs are
held until the chain is queued and each was found in the queue by its name. Nothing is cancelled, let go or waited for
that is not named so: what a killed command left is found, and an id that is somebody else's job is left alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.ledger import Ledger, Request, Submission
from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Launch
from rag_hpc.core.trust import is_ours, private_files
from rag_hpc.errors import ClusterError, ConfigError, IncompleteError, RagHpcError
from rag_hpc.launchers.advance import advance
from rag_hpc.launchers.array import drop_pickles, submit_array
from rag_hpc.launchers.local import stopping_on_signals
from rag_hpc.slurm import scripts
from rag_hpc.slurm.client import FORGOTTEN, NoPlaces, Slurm, connect
from rag_hpc.slurm.scripts import StageJob
from rag_hpc.slurm.states import UNKNOWN, Outlook, State, num_gpus, of_job, outlook
from rag_hpc.stages.registry import stage_class

if TYPE_CHECKING:
    from rag_hpc.slurm.cluster import ClusterConfig

log = logging.getLogger(__name__)
NODE_LOCAL = (Path("/tmp"), Path("/dev/shm"), Path("/var/tmp/slurm"))


def submit(ledger: Ledger, request: Request, *, slurm: Slurm | None = None, after: Ledger | None = None) -> Submission:
    """Return the submission, its chain queued; no job is queued when every stage is finished.

    With `after`, another run, the chain starts when that run's has ended, however it did; what a gate resubmits of that
    run is a chain of its own, for which nobody waits.

    Jobs that earlier submissions of the run left in the queue are cancelled first; what they committed stays.
    Raises ClusterError when Slurm refuses, and then leaves nothing queued.
    """
    cluster = cluster_of(request)
    slurm = slurm or slurm_of(request)
    slurm.require()
    check_places(ledger, cluster)
    num_nodes = check_sites(request.stages, cluster, slurm)
    with private_files(ledger.run_dir), stopping_on_signals(ledger.handle):
        submission = ledger.submit(request)
        # with the number taken: whoever submits the same run at this moment looks for later numbers before it lets go
        if left := clear(ledger, slurm, range(submission.number)):
            log.warning("%s: jobs of an earlier submission are cancelled: %s", ledger.name, ", ".join(left))
        progress = advance(submission)
        if progress.open_plan is None:
            log.info("%s: every stage is finished already, nothing is queued", ledger.name)
            return submission
        begun = time.monotonic()
        chain = Chain(submission, cluster, slurm)
        chain.lay_out(stage_jobs(submission, num_nodes, progress.open_plan), last_gate(after, slurm))
        log.info("%s: %d jobs queued in %.2f s", ledger.name, len(chain.names), time.monotonic() - begun)
    return submission


def go_on(submission: Submission, stage: str, open_plan: Plan | None, slurm: Slurm) -> None:
    """Do what is left to do when a stage has passed: queue those for which there was no room, or tidy up at the end."""
    ledger, stages = submission.ledger, submission.request.stages
    if open_plan is None:
        try:
            clear(ledger, slurm, range(submission.number))  # what an sbatch queued that outlived its killed command
        except ClusterError as error:
            log.warning("earlier submissions may have left jobs in the queue: %s", error)
        return
    windows = [job.get("stages", stages) for job in submission.jobs() if job["kind"] == "released"]
    # a command that was killed just before it wrote that line down had let go all that it had queued
    windows = windows or [[job["stage"] for job in submission.jobs() if job["kind"] == "gate"]]
    if stage not in (window[-1] for window in windows):
        return
    clear(ledger, slurm, [submission.number])  # half of the rest, if this gate was killed before and runs again
    cluster = cluster_of(submission.request)
    jobs = stage_jobs(submission, check_sites(submission.request.stages, cluster, slurm), open_plan)
    try:
        Chain(submission, cluster, slurm).lay_out(jobs)
    except NoPlaces as error:
        raise IncompleteError(f"{error}; then: rag-hpc retry run={ledger.handle}") from error


class Chain:
    """The queued jobs of one submission, or of those stages of it for which there is room at a time."""

    def __init__(self, submission: Submission, cluster: ClusterConfig, slurm: Slurm) -> None:
        self._submission, self._cluster, self._slurm = submission, cluster, slurm
        self.names: dict[str, str] = {}  # by id

    def lay_out(self, jobs: list[StageJob], after: str | None = None) -> None:
        """Queue every stage's workers and gate, held, to start after job `after`, and let them go.

        Where the site lets fewer jobs wait, the first stages only: their last gate queues the next ones. When one is
        refused, or a later submission takes over meanwhile, all are cancelled.
        """
        ledger = self._submission.ledger
        try:
            stages = self._queue(jobs, after)
            self._check()
            self._slurm.release([*self.names][::-1])  # the first workers last: half a release starts nothing
            self._submission.add_job(stage=stages[0], kind="released", ids=[], stages=stages)
        except BaseException as error:  # Ctrl-C too: half a chain is of no use
            try:
                clear(ledger, self._slurm, [self._submission.number])
            except RagHpcError as trouble:
                said = "%s: held jobs may be left in the queue (%s); cancel them: rag-hpc cancel run=%s"
                log.warning(said, ledger.name, trouble, ledger.handle)
            if isinstance(error, ClusterError):
                self._require_latest()  # else what Slurm refused may have been about jobs that another has cancelled
            raise

    def _queue(self, jobs: list[StageJob], after: str | None) -> list[str]:
        """Return the stages for which there was room."""
        max_size = max_array_size(jobs, self._cluster, self._slurm)
        dependency = f"afterany:{after}" if after else None
        for done, job in enumerate(jobs):
            workers: list[str] = []
            try:
                workers = self._workers(job, dependency, max_size)
                flags = [f"--dependency=afterany:{':'.join(workers)}", "--hold"]
                gate = self._slurm.submit(scripts.gate_script(job, self._cluster), args=flags)
            except NoPlaces as error:
                room = sum(_places(j) + 1 for j in jobs[:done]) + _places(job) - (not workers)  # at the most
                self._require_places(jobs, room, error)
                log.warning("the queue has room for %d of %d stages; the last gate queues the rest", done, len(jobs))
                return [job.stage for job in jobs[:done]]
            self.names |= {**dict.fromkeys(workers, job.name()), gate: job.name(".gate")}
            self._submission.add_job(stage=job.stage, kind="workers", ids=workers, p=job.world)
            self._submission.add_job(stage=job.stage, kind="gate", ids=[gate])
            dependency = f"afterok:{gate}"
        return [job.stage for job in jobs]

    def _workers(self, job: StageJob, dependency: str | None, max_size: int) -> list[str]:
        job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        site = self._cluster.of(job.stage)
        if job.launch is Launch.array:
            return submit_array(job, site, self._slurm, max_size=max_size, dependency=dependency)
        make = scripts.torchrun_script if job.launch is Launch.torchrun else scripts.mpi_script
        flags = [f"--dependency={dependency}"] * bool(dependency) + ["--hold"]
        return [self._slurm.submit(make(job, site), args=flags)]

    def _check(self) -> None:
        """Return if each id is that of our job, nothing else of the submission is queued, and it is the latest."""
        ledger = self._submission.ledger
        found = queued(ledger, self._slurm, [self._submission.number])
        strangers = [job_id for job_id, name in self.names.items() if found.get(job_id) != name]
        known = self._slurm.details(strangers)  # a site's squeue may lag behind
        strangers = [i for i in strangers if self.names[i] not in {s.name for s in of_job(known, i).values()}]
        if strangers:
            raise ClusterError(
                f"sbatch gave {', '.join(strangers)}, but no such job of {ledger.name} is in the queue; is it a site's "
                "wrapper? see: type sbatch"
            )
        # workers whose gate found no room, and a job that sbatch queued although it failed
        self._slurm.cancel([job_id for job_id in found if job_id not in self.names])
        self._require_latest()

    def _require_latest(self) -> None:
        ledger, number = self._submission.ledger, self._submission.number
        latest = ledger.submissions()[-1]
        if latest > number:
            raise IncompleteError(
                f"run={ledger.name}: submission {latest} took over while this one, {number}, was queued; "
                f"see: rag-hpc status run={ledger.handle}"
            )

    def _require_places(self, jobs: list[StageJob], room: int, error: NoPlaces) -> None:
        """Raise NoPlaces unless `room` places are enough for each stage, its gate, and the gate that queues both."""
        largest, in_gate = max(jobs, key=_places), "SLURM_JOB_ID" in os.environ
        least = _places(largest) + 1 + (in_gate or len(jobs) > 1)
        if not self.names or room + in_gate < least:
            fewer = "lower workers, or " if largest.world > 1 else ""
            raise NoPlaces(
                f"{error}. At least {least} places are needed at a time: {_places(largest)} for the workers of "
                f"{largest.stage}, the others for gates; {fewer}ask the site for more"
            ) from error


def max_array_size(jobs: list[StageJob], cluster: ClusterConfig, slurm: Slurm) -> int:
    """Return how many tasks an array may have: as the site's settings say, and as Slurm does."""
    largest = max((job.world for job in jobs if job.launch is Launch.array), default=1)
    limit = slurm.max_array_size() if largest > 1 else None
    return min(cluster.max_array_size, limit or cluster.max_array_size)


def _places(job: StageJob) -> int:
    """Return what a stage's workers count as where a site limits a user's jobs: each task of an array is one."""
    return job.world if job.launch is Launch.array else 1


def last_gate(ledger: Ledger | None, slurm: Slurm) -> str | None:
    """Return the job that ends a run's latest chain, None when no chain of it is in the queue."""
    if ledger is None or not ledger.submissions():
        return None
    live = queued(ledger, slurm)
    gates = [job["ids"][0] for job in ledger.submission().jobs() if job["kind"] == "gate" and job["ids"][0] in live]
    return gates[-1] if gates else None


def stage_jobs(submission: Submission, num_nodes: Mapping[str, int], open_plan: Plan | None) -> list[StageJob]:
    """Return the jobs of the stages that are not finished; `open_plan` is of the first of them.

    `num_nodes`: of each stage's partition; of a stage that is not there it is not known.
    """
    stages = submission.request.stages
    first = stages.index(open_plan.stage) if open_plan else 0
    cluster = cluster_of(submission.request)
    jobs = []
    for stage in stages[first:]:
        units = len(open_plan.units) if open_plan and stage == open_plan.stage else None
        jobs.append(_stage_job(submission, stage, cluster, num_nodes.get(stage), units))
    return jobs


def cluster_of(request: Request) -> ClusterConfig:
    """Return the site's settings in a request, checked."""
    from rag_hpc.schema import from_plain
    from rag_hpc.slurm.cluster import ClusterConfig

    return from_plain(ClusterConfig, request.cluster)


def slurm_of(request: Request) -> Slurm:
    """Return the client of the site that a request is for."""
    return connect(request.cluster["name"], request.cluster["slurm_conf"])


def site_of(ledger: Ledger) -> Slurm | None:
    """Return the client of the site that a run was last submitted to, None when it only ever ran here."""
    requests = map(ledger.request, reversed(ledger.submissions()))
    request = next((request for request in requests if request.on_slurm), None)
    return slurm_of(request) if request else None


def check_places(ledger: Ledger, cluster: ClusterConfig) -> None:
    """Raise ConfigError for a run's folder that nodes cannot see, or a file of secrets that others can read."""
    local = [folder for folder in NODE_LOCAL if folder in ledger.run_dir.parents]
    if local:
        raise ConfigError(
            f"{ledger.run_dir}: each node has a {local[0]} of its own, so jobs would not find the run; "
            "start from another folder, or set cluster.root to one that all nodes see"
        )
    scripts.one_line(str(ledger.run_dir))
    if cluster.secrets_file:
        check_secrets(Path(cluster.secrets_file))


def check_sites(stages: Sequence[str], cluster: ClusterConfig, slurm: Slurm) -> dict[str, int]:
    """Return the number of nodes in each stage's partition.

    Raises ClusterError for a partition that is not there, and where no node of it gives a stage's walltime or GPUs: its
    jobs would wait for ever.
    """
    partitions = {stage: cluster.of(stage).partition for stage in stages}
    # the gates', too
    num_nodes = {name: slurm.check_partition(name) for name in dict.fromkeys([cluster.partition, *partitions.values()])}
    check_offers(stages, cluster, slurm)
    return {stage: num_nodes[name] for stage, name in partitions.items()}


def check_offers(stages: Sequence[str], cluster: ClusterConfig, slurm: Slurm) -> None:
    """Raise ClusterError for a walltime or a GPU that no node of a stage's partition gives; gates need neither."""
    asked = set()
    for stage in stages:
        site = cluster.of(stage)
        time_min = None if site.qos else site.time_min  # a QOS may lift the partition's limit
        offer = (site.partition, time_min, site.gres if wants_gpu(stage, cluster) else None)
        if offer not in asked:
            slurm.check_offers(site.partition, time_min=time_min, gres=offer[2], key=partial(cluster.key_of, stage))
        asked.add(offer)


def wants_gpu(stage: str, cluster: ClusterConfig) -> bool:
    """Return whether a stage's jobs ask for the GPUs that the settings name: a stage that can use one, or whose own
    settings ask for it. The others leave them to those.
    """
    return stage_class(stage).launch is Launch.torchrun or bool(cluster.holder_of(stage, "gres"))


def check_secrets(path: Path) -> None:
    """Raise ConfigError unless the file is ours and nobody else can read it."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(
            f"cluster.secrets_file={path}: {error.strerror}; give the full path of a file of NAME=value lines"
        ) from None
    if found.st_mode & 0o077 or found.st_uid != os.getuid():
        raise ConfigError(f"cluster.secrets_file={path}: others can read it; run: chmod 600 {path}")


def queued(ledger: Ledger, slurm: Slurm, numbers: Container[int] | None = None) -> dict[str, str]:
    """Return the names of the run's jobs in the queue by id, those of all submissions or of `numbers`.

    They are told by their names, whatever the ledger says. The job in which this process runs, a gate, is left out.
    """
    found = {}
    for job_id, name in slurm.queued().items():
        number = scripts.submission_of(name, ledger.run_dir)
        if number is not None and (numbers is None or number in numbers) and job_id != os.environ.get("SLURM_JOB_ID"):
            found[job_id] = name
    return found


def clear(ledger: Ledger, slurm: Slurm, numbers: Sequence[int] | None = None) -> list[str]:
    """Cancel what submissions of the run (all, or `numbers`) have in the queue, and drop the pickles of their arrays.

    Return the ids.
    """
    found = [*queued(ledger, slurm, numbers)]
    slurm.cancel(found)
    for number in ledger.submissions() if numbers is None else numbers:
        drop_pickles(ledger.folder(number) / "jobs")
    return found


def job_lines(submission: Submission) -> list[dict[str, Any]]:
    """Return what the scheduler says of a run's jobs that have not ended: job, stage, kind, state, reason, outlook.

    `outlook`: of a job that waits, a value of Outlook; "superseded" of one of an earlier submission than the one that
    runs; else "". The scheduler is asked at most every 30 s; one that cannot be asked gives a line whose state is
    UNKNOWN. A local run has none, nor has another's: it is read by its files alone, not by a slurm.conf that they name.
    """
    if not submission.request.on_slurm or not is_ours(submission.run_dir):
        return []
    ledger = submission.ledger
    numbers = [number for number in ledger.submissions() if number <= submission.number]
    running = max((n for n in numbers if any(job["kind"] == "released" for job in ledger.jobs(n))), default=0)
    found = [job for number in numbers for job in _open_jobs(ledger.submission(number))]
    jobs = [(job, job_id) for job in found for job_id in job.get("ids", [])]
    try:
        slurm = slurm_of(submission.request)
        states = slurm.states([job_id for _, job_id in jobs], cache=submission.folder / "states.json")
    except RagHpcError as error:
        return [{"job": "?", "stage": "", "kind": "", "state": UNKNOWN, "reason": str(error), "outlook": ""}]
    lines = []
    for job, job_id in jobs:
        tasks = [state for state in of_job(states, job_id).values() if not state.ended]
        if tasks and any(state.live or state.reason != FORGOTTEN for state in tasks):
            line = {"job": job_id, "stage": job["stage"], "kind": job["kind"], "state": _counted(tasks)}
            prospect = _prospect(tasks, ledger.handle)
            if job["submission"] < running:
                prospect = {"reason": f"superseded by submission {running}", "outlook": "superseded"}
            lines.append({**line, **prospect})
    return lines


def _open_jobs(submission: Submission) -> list[dict[str, Any]]:
    """Return the jobs that may be in the queue: those that are over are out, whatever the scheduler said last."""
    gone = submission.outcomes()
    if any(value["outcome"] != "passed" for value in gone.values()):
        return []
    return [job for job in submission.jobs() if job["stage"] not in gone and job["kind"] in ("workers", "gate")]


def _counted(tasks: Sequence[State]) -> str:
    """Return 'RUNNING', or for an array '3 RUNNING, 1 PENDING'."""
    words = [task.state for task in tasks]
    if len(words) == 1:
        return words[0]
    return ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))


def _prospect(tasks: Sequence[State], run: str) -> dict[str, str]:
    """Return what the tasks that do not run wait for, in words, and the outlook when none runs."""
    waiting = [outlook(task.reason, run) for task in tasks if task.state == "PENDING"]
    others = {task.reason for task in tasks if task.state != "PENDING" and task.reason}
    hows = {how for how, _ in waiting} if len(waiting) == len(tasks) else set()
    worst = next((how.value for how in (Outlook.waits, Outlook.follows, Outlook.never) if how in hows), "")
    return {"reason": ", ".join(sorted({text for _, text in waiting} | others)), "outlook": worst}


def _stage_job(
    submission: Submission, stage: str, cluster: ClusterConfig, num_nodes: int | None, units: int | None
) -> StageJob:
    request, cls = submission.request, stage_class(stage)
    launch, world = cls.launch, request.workers
    if not cls.collective:  # ranks of a collective stage all work on each unit
        world = min(world, units or world)
    nodes = None
    if launch is Launch.torchrun and num_nodes:
        world = min(world, num_nodes)
    if launch is not Launch.array and (num_nodes is None or world <= num_nodes):
        nodes = world
    gpus = num_gpus(cluster.of(stage).gres) if launch is Launch.torchrun and cls.collective else 1
    if world == 1 and (launch is not Launch.torchrun or gpus < 2):
        launch = Launch.array  # a lone process needs no rendezvous
    return StageJob(
        run=submission.ledger.name,
        stage=stage,
        launch=launch,
        world=world,
        num_nodes=nodes,
        plan=submission.plan_path(stage),
        python=request.python,
        submitted_unix=request.submitted_unix,
        environment=request.environment,
        wants_gpu=wants_gpu(stage, cluster),
    )
