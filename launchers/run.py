"""`rag-hpc run` and `rag-hpc plan`: start runs, or resume them, or show what they would do."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from rag_hpc.core.job import settable
from rag_hpc.core.ledger import Ledger, Request, Submission, open_run, runs_root
from rag_hpc.core.log import configure
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, IncompleteError, Interrupted
from rag_hpc.launchers import local
from rag_hpc.launchers.chain import check_places, slurm_of, submit
from rag_hpc.launchers.dryrun import show
from rag_hpc.launchers.progress import Bars
from rag_hpc.launchers.request import refuse_itself, sweep_points, sweep_requests
from rag_hpc.launchers.rows import error_lines, log_files, print_if_empty, print_in_and_out, stage_rows
from rag_hpc.launchers.watch import watch
from rag_hpc.schema import to_plain

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.config import RunConfig


def run(arguments: Arguments) -> int:
    """Run a pipeline, or each point of a sweep (`workers=1,2,4`), one after another, on a cluster too."""
    from rag_hpc.config import check, compose, compose_plain

    if "--cfg" in arguments.values:
        from omegaconf import OmegaConf

        plain = compose_plain(arguments.overrides, arguments.config_dir)
        print(OmegaConf.to_yaml(plain, resolve="--resolve" in arguments.flags), end="")
        return 0
    configure(level="WARNING")
    points = sweep_points(arguments.overrides)
    configs = [compose(overrides, arguments.config_dir) for overrides in points]
    for config in configs:
        check(config)
    requests = sweep_requests(configs)
    ledgers = list(map(ledger_of, configs, requests))
    for config, ledger in zip(configs, ledgers, strict=True):
        refuse_itself(config, ledger)
    codes, before = [], None
    for overrides, config, request, ledger in zip(points, configs, requests, ledgers, strict=True):
        if len(points) > 1:
            print(f"-- {' '.join(overrides)}", flush=True)
        codes.append(run_one(config, request, ledger, arguments, after=before))
        before = ledger
    if len({request.workers for request in requests}) > 1 and not is_dry(configs[0], arguments):
        print(f"the speed-ups: rag-hpc scaling {' '.join(ledger.handle for ledger in ledgers)}")
    return max(codes)


def plan(arguments: Arguments) -> int:
    """Print what a run would do."""
    arguments.flags.add("--dry-run")
    return run(arguments)


def is_dry(config: RunConfig, arguments: Arguments) -> bool:
    """Return whether the run is only to be shown."""
    return config.dry_run or "--dry-run" in arguments.flags


def ledger_of(config: RunConfig, request: Request) -> Ledger:
    """Return the files of the run that the request asks for; nothing is made. Raises ConfigError as `open_run`."""
    return open_run(runs_root(config.cluster.root) / request.run)


def run_one(
    config: RunConfig, request: Request, ledger: Ledger, arguments: Arguments, after: Ledger | None = None
) -> int:
    """Start or resume one run; on a cluster return as soon as its chain is queued, to start when `after` has ended."""
    if is_dry(config, arguments):
        print(show(ledger, request, after))
        return 0
    if request.on_slurm:  # where no job can be submitted, or none would find the run, its folder is not made
        slurm_of(request).require()
        check_places(ledger, config.cluster)
    new = not ledger.run_dir.exists()
    ledger.create(to_plain(config), share=config.cluster.share is not None)
    try:
        code = start(ledger, request, after)
    except ConfigError:
        if new and not any(ledger.run_dir.glob("submissions/*/*.plan.json")):  # nothing was begun
            shutil.rmtree(ledger.run_dir)
        raise
    return watch(ledger) if request.on_slurm and (config.watch or "--watch" in arguments.flags) else code


def start(ledger: Ledger, request: Request, after: Ledger | None = None) -> int:
    """Queue the request's chain, or run its stages in processes of this machine.

    Raises ConfigError for a variable that the request may not set.
    """
    settable(request.environment)
    if not request.on_slurm:
        with private_files(ledger.run_dir):
            return run_here(ledger.submit(request))
    submission = submit(ledger, request, after=after)
    if submission.jobs():
        number, handle = submission.number, ledger.handle
        print(f"submitted run={ledger.name} as submission {number}; follow it: rag-hpc status run={handle}")
    else:
        print(f"run={ledger.name}: every stage is finished; see: rag-hpc report run={ledger.handle}")
    return 0


def run_here(submission: Submission) -> int:
    """Run a submission in processes of this machine, with progress bars."""
    ledger = submission.ledger
    try:
        with Bars() as bars:
            draw = bars.poll(ledger.run_dir)
            finished = local.run_all(submission, on_poll=draw, on_close=bars.close, on_plan=bars.planning)
    except Interrupted:
        raise
    except IncompleteError as error:
        raise IncompleteError("\n".join([str(error), *_last_errors(ledger)])) from error
    print(f"run={ledger.name}: {len(finished)} stages finished; see: rag-hpc report run={ledger.handle}")
    print_in_and_out(ledger)
    print_if_empty(ledger, stage_rows(submission))
    return 0


def _last_errors(ledger: Ledger) -> list[str]:
    """Return what the log written last holds of errors."""
    return [
        line
        for path in log_files(ledger, None)
        for line in error_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())
    ]
