"""The embedded default: workers are processes of this machine, with the same plan and entry as on a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rag_hpc.core import commit
from rag_hpc.core.failures import failure_counts
from rag_hpc.core.job import PREFIX, SAFE_PATH, JobEnv, settable
from rag_hpc.core.ledger import Request, Submission
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Launch
from rag_hpc.errors import ConfigError, IncompleteError, InputError, Interrupted, RagHpcError
from rag_hpc.launchers.advance import advance
from rag_hpc.stages.registry import stage_class

log = logging.getLogger(__name__)
POLL_S = 0.1
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SETTLED_S, GRACE_S = 1.0, 10.0  # how often it is looked whether any unit is left, and how long workers may stay then
Watcher = Callable[[Plan], None]


def run_all(
    submission: Submission,
    *,
    on_poll: Watcher = lambda plan: None,
    on_close: Callable[[Manifest], None] = lambda found: None,
    on_plan: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run the stages one after another until all are finished; return their names.

    Raises IncompleteError when a stage's workers ended with units left and nothing quarantined, UnitFailed when units
    are, and Interrupted when a user cancelled it. `on_poll` is called while workers run, with the plan they work on,
    `on_plan` before stages are verified and planned, and `on_close` with what is finished, also again.
    """
    ended: dict[str, list[int]] = {}
    ledger = submission.ledger
    with stopping_on_signals(ledger.handle):
        while True:
            on_plan()
            try:
                progress = advance(submission, on_close)
            except (ConfigError, InputError) as error:
                _note_refusal(submission, error)
                raise
            plan = progress.open_plan
            if plan is None:
                return progress.finished
            if plan.stage in ended:
                last = ledger.request().number
                if last > submission.number:
                    raise IncompleteError(
                        f"{plan.stage}: submission {last} took over from this one, {submission.number}; "
                        f"see: rag-hpc status run={ledger.handle}"
                    )
                raise IncompleteError(
                    f"{plan.stage}: workers ended with units left (exit codes {ended[plan.stage]}); see: rag-hpc why "
                    f"run={ledger.handle}, go on: rag-hpc retry run={ledger.handle}"
                )
            ended[plan.stage] = run_stage(submission, plan, on_poll)


def _note_refusal(submission: Submission, error: RagHpcError) -> None:
    """Leave in a stage's log why it could not be planned, for `rag-hpc why`: no worker of it has begun."""
    stage = next((name for name in submission.request.stages if not submission.plan_path(name).exists()), None)
    if stage:
        with (submission.folder / f"{stage}.log").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} ERROR {stage}: not planned: {error}\n")


@contextlib.contextmanager
def stopping_on_signals(run: str) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into Interrupted for the time being, so that workers are not left behind."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; what is committed stays, go on: rag-hpc retry run={run}"
        )

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    # nohup has SIGHUP ignored, and a gate has its own way with SIGTERM
    wanted = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_kept_back() -> Iterator[None]:
    """Let a signal to stop, Ctrl-C too, take effect only at the end; children inherit nothing of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    wanted = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def run_stage(submission: Submission, plan: Plan, on_poll: Watcher) -> list[int]:
    """Run the stage's workers and return their exit codes; their log is the submission's STAGE.log."""
    request, launch = submission.request, stage_class(plan.stage).launch
    workers = num_workers(launch, request.workers, plan)
    together = launch is Launch.torchrun and workers > 1 and stage_class(plan.stage).collective
    commands = worker_commands(launch, submission.plan_path(plan.stage), workers)
    log_path = submission.folder / f"{plan.stage}.log"
    env = environment(launch, workers, request)
    children: list[subprocess.Popen[bytes]] = []
    with log_path.open("ab") as stream, session_folder() as places:
        try:
            with signals_kept_back():  # one that came between a start and its note would leave that worker behind
                for rank, command in enumerate(commands):
                    own = rank_variables(rank, workers, request.environment, places) if together else places
                    children.append(start(command, stream.fileno(), env | own, submission.run_dir))
            submission.add_job(stage=plan.stage, kind="workers", pids=[child.pid for child in children])
            settled = Settled(plan, submission.run_dir / plan.folder)
            while any(child.poll() is None for child in children):
                on_poll(plan)
                if together and any(child.poll() for child in children):
                    log.warning("%s: a rank ended with an error; the others are stopped", plan.stage)
                    stop(children)
                    break
                if settled.for_s() >= GRACE_S:
                    log.warning("%s: no unit is left; workers that do not end are stopped", plan.stage)
                    stop(children)
                    break
                if submission.is_cancelled():
                    run = submission.ledger
                    said = f"cancelled; what is committed stays, go on: rag-hpc retry run={run.handle}"
                    raise Interrupted(f"run={run.name}: {said}")
                time.sleep(POLL_S)
        except BaseException:
            stop(children)
            raise
    return [child.wait() for child in children]


class Settled:
    """Since when no unit of a plan is left to anybody: each is committed, or failed as often as it may."""

    def __init__(self, plan: Plan, stage_dir: Path) -> None:
        self._plan, self._stage_dir = plan, stage_dir
        self._since, self._looked = math.inf, -math.inf

    def for_s(self) -> float:
        """Return for how many seconds this has been so, negative while it is not; the disk is asked once a second."""
        now = time.monotonic()
        if self._since == math.inf and now - self._looked >= SETTLED_S:
            self._looked, tries = now, failure_counts(self._stage_dir)
            given_up = {index for index, number in tries.items() if number >= self._plan.policy.max_attempts}
            over = commit.committed(self._stage_dir / commit.UNITS) | given_up
            self._since = now if over.issuperset(unit.index for unit in self._plan.units) else math.inf
        return now - self._since


@contextlib.contextmanager
def session_folder() -> Iterator[dict[str, str]]:
    """Yield the environment that gives mpirun (Open MPI 5 and 4) a place of its own for its files, and remove it.

    Left to itself it calls a folder in /tmp by its process id, and will not start where a killed one left that. Ranks
    speak through shared memory alone; each would listen on every interface, too.
    """
    with tempfile.TemporaryDirectory(prefix="rag-hpc-", ignore_cleanup_errors=True) as folder:
        places = {"PRTE_MCA_prte_tmpdir_base": folder, "OMPI_MCA_orte_tmpdir_base": folder}
        yield {**places, "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,vader"}


def num_workers(launch: Launch, workers: int, plan: Plan | None) -> int:
    """Return how many workers of a stage are started: no more than there are units, unless all work on each."""
    if plan is None or launch is Launch.mpi or stage_class(plan.stage).collective:
        return workers
    return max(1, min(workers, len(plan.units)))


def worker_commands(launch: Launch, path: Path, workers: int) -> list[list[str]]:
    """Return the commands that start the workers of a stage on this machine.

    torchrun's ranks take units of their own, as an array's workers do: on one machine they are started as those, since
    torchrun would listen on every interface. Those of a collective stage are told of each other by `rank_variables`.
    """
    entry = [sys.executable, "-P", "-m", "rag_hpc.worker", str(path)]  # no module comes from the folder it starts in
    if launch is not Launch.mpi:
        return [[*entry, str(index)] for index in range(workers)]
    if workers > 1 and (mpirun := find_mpirun()):
        return [[*mpirun, "-n", str(workers), *entry, "rank"]]
    return [[*entry, "0"]]


def find_mpirun() -> list[str] | None:
    """Return the command that starts MPI ranks here, None without an MPI; one process then does all the work."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None or importlib.util.find_spec("mpi4py") is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    alone = [sys.executable, "-P", "-m", "rag_hpc.launchers.loopback", found]
    if "Open MPI" not in version:
        return alone
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [*alone, *as_root, "--oversubscribe"]


def environment(launch: Launch, workers: int, request: Request) -> dict[str, str]:
    """Return the workers' environment: nothing of an enclosing job, one thread a worker, and how they were launched.

    Raises ConfigError for a variable that the request may not set.
    """
    foreign = ("SLURM_", "SBATCH_", "PMIX_", "PMI_", "OMPI_", "PRTE_", PREFIX)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) or k in ("RAG_HPC_LOG", "RAG_HPC_DATA")}
    alone = launch is not Launch.mpi or workers < 2 or find_mpirun() is None
    num_alone = 1 if launch is Launch.mpi else max(1, workers)
    told = JobEnv(num_workers=num_alone) if alone else JobEnv(launch=launch.value, world_size=workers)
    set_here = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **settable(request.environment), **told.to_env(), **set_here, **SAFE_PATH}


def rank_variables(rank: int, world_size: int, given: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """Return what a rank of a collective stage is told in place of torchrun: who it is, and the file to meet in.

    Ranks speak over the loopback alone. `given`: the run's own variables, which win. `places`: of `session_folder`.
    """
    store = str(Path(places["PRTE_MCA_prte_tmpdir_base"]) / "store")
    told = JobEnv(launch=Launch.torchrun.value, world_size=world_size, store=store).to_env()
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    own = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **given}
    return {**places, **told, **own, **{name: str(number) for name, number in ranks.items()}}


def start(command: Sequence[str], log_fd: int, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a worker in a process group of its own, so that it can be stopped with all its children.

    It starts in the run's folder, a place for what crashes leave behind.
    """
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd, env=env, cwd=folder, start_new_session=True
    )


def stop(children: Sequence[subprocess.Popen[bytes]], grace_s: float = 10.0) -> None:
    """Ask the workers to stop, those that sleep (SIGSTOP) too, and kill those that do not within the grace."""
    for number, limit in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for child in children:
            if child.poll() is None:
                try:
                    os.killpg(child.pid, number)
                    os.killpg(child.pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue
        end = time.monotonic() + limit
        while time.monotonic() < end and any(child.poll() is None for child in children):
            time.sleep(0.05)
