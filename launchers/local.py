"""The embedded default: workers are processes of this machine, with the same plan and entry as on a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rag_hpc.core.plan import Plan, plan_path
from rag_hpc.core.stage import Launch
from rag_hpc.errors import IncompleteError, Interrupted
from rag_hpc.launchers.advance import advance
from rag_hpc.launchers.ledger import Ledger, Request
from rag_hpc.stages.registry import stage_class

log = logging.getLogger(__name__)
POLL_S = 0.1
Watcher = Callable[[Plan], None]


def run_all(ledger: Ledger, request: Request, *, on_poll: Watcher = lambda plan: None) -> list[str]:
    """Run the stages one after another until all are finished; return their names.

    Raises IncompleteError when a stage's workers ended with units left and nothing quarantined, and UnitFailed when
    units are. `on_poll` is called while workers run, with the plan they work on.
    """
    ended: dict[str, list[int]] = {}
    with stopping_on_signals(ledger.handle):
        while True:
            progress = advance(ledger, request)
            plan = progress.open_plan
            if plan is None:
                return progress.finished
            if plan.stage in ended:
                last = ledger.request().number
                if last > request.number:
                    raise IncompleteError(f"{plan.stage}: submission {last} took over from this one, {request.number}; "
                                          f"see: rag-hpc status run={ledger.handle}")
                raise IncompleteError(
                    f"{plan.stage}: workers ended with units left (exit codes {ended[plan.stage]}); see: rag-hpc why "
                    f"run={ledger.handle}, go on: rag-hpc retry run={ledger.handle}"
                )
            ended[plan.stage] = run_stage(ledger, request, plan, on_poll)


@contextlib.contextmanager
def stopping_on_signals(run: str) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into Interrupted for the time being, so that workers are not left behind."""
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}; what is committed stays, go on: "
                          f"rag-hpc retry run={run}")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    wanted = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup: ignored
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stage(ledger: Ledger, request: Request, plan: Plan, on_poll: Watcher) -> list[int]:
    """Run the stage's workers and return their exit codes; their log is the submission's STAGE.log."""
    path = plan_path(ledger.run_dir, request.number, plan.stage)
    launch = stage_class(plan.stage).launch
    workers = min(request.workers, len(plan.units)) if launch is not Launch.mpi else request.workers
    commands = worker_commands(launch, path, max(1, workers))
    log_path = ledger.folder(request.number) / f"{plan.stage}.log"
    env = {**environment(launch, workers, request), "RAG_HPC_NUM_WORKERS": str(len(commands))}
    children: list[subprocess.Popen[bytes]] = []
    with log_path.open("ab") as stream, session_folder() as places:
        try:
            for command in commands:
                children.append(start(command, stream.fileno(), env | places, ledger.run_dir))
            ledger.add_job(request.number, stage=plan.stage, kind="workers", pids=[child.pid for child in children])
            while any(child.poll() is None for child in children):
                on_poll(plan)
                time.sleep(POLL_S)
        except BaseException:
            stop(children)
            raise
    return [child.wait() for child in children]


@contextlib.contextmanager
def session_folder() -> Iterator[dict[str, str]]:
    """Yield the environment that gives mpirun (Open MPI 5 and 4) a place of its own for its files, and remove it.

    Left to itself it calls a folder in /tmp by its process id, and will not start where a killed one left that.
    """
    with tempfile.TemporaryDirectory(prefix="rag-hpc-", ignore_cleanup_errors=True) as folder:
        yield {"PRTE_MCA_prte_tmpdir_base": folder, "OMPI_MCA_orte_tmpdir_base": folder}


def worker_commands(launch: Launch, path: Path, workers: int) -> list[list[str]]:
    """Return the commands that start the workers of a stage on this machine."""
    entry = [sys.executable, "-m", "rag_hpc.worker", str(path)]
    if launch is Launch.torchrun and workers > 1:
        return [[sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}",
                 "--no-python", *entry, "rank"]]
    if launch is Launch.mpi and workers > 1 and (mpirun := find_mpirun()):
        return [[*mpirun, "-n", str(workers), *entry, "rank"]]
    if launch is Launch.array:
        return [[*entry, str(index)] for index in range(workers)]
    return [[*entry, "0"]]


def find_mpirun() -> list[str] | None:
    """Return the command that starts MPI ranks here, None without an MPI; one process then does all the work."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None or importlib.util.find_spec("mpi4py") is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" not in version:
        return [found]
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [found, *as_root, "--oversubscribe"]


def environment(launch: Launch, workers: int, request: Request) -> dict[str, str]:
    """Return the workers' environment: nothing of an enclosing job, one thread a worker, and how they were launched."""
    foreign = ("SLURM_", "SBATCH_", "PMIX_", "PMI_", "OMPI_", "PRTE_", "RAG_HPC_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) or k in ("RAG_HPC_LOG", "RAG_HPC_DATA")}
    alone = launch is Launch.array or workers < 2 or (launch is Launch.mpi and find_mpirun() is None)
    set_here = {"RAG_HPC_LAUNCH": "array" if alone else launch.value, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
                "TOKENIZERS_PARALLELISM": "false"}
    if not alone:
        set_here["RAG_HPC_WORLD_SIZE"] = str(workers)
    return {**kept, **request.environment, **set_here}


def start(command: Sequence[str], log_fd: int, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a worker in a process group of its own, so that it can be stopped with all its children.

    It starts in the run's folder: `python -m` would import what happens to lie in the user's.
    """
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd, env=env, cwd=folder,
                            start_new_session=True)


def stop(children: Sequence[subprocess.Popen[bytes]], grace_s: float = 10.0) -> None:
    """Ask the workers to stop, and kill those that do not within the grace."""
    for number, limit in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for child in children:
            if child.poll() is None:
                try:
                    os.killpg(child.pid, number)
                except ProcessLookupError:
                    continue
        end = time.monotonic() + limit
        while time.monotonic() < end and any(child.poll() is None for child in children):
            time.sleep(0.05)
