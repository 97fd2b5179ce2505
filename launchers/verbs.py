"""The verbs that start, go on with, and stop runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core import commit, failures, manifest
from rag_hpc.core.fs import drop_dir, naming_disk
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.log import configure
from rag_hpc.core.plan import Plan
from rag_hpc.errors import ConfigError, IncompleteError, Interrupted
from rag_hpc.launchers import local
from rag_hpc.launchers.ledger import Ledger, Request, find_run, runs_root

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments
    from rag_hpc.config import RunConfig

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run a pipeline, or each point of a sweep (`workers=1,2,4`), one after another, on a cluster too."""
    from rag_hpc.config import check, compose, compose_plain

    if arguments.words:
        raise ConfigError(f"run takes key=value overrides, not {arguments.words[0]!r}; see: rag-hpc run --cfg job")
    if "--cfg" in arguments.values:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(compose_plain(arguments.overrides, arguments.config_dir),
                                resolve="--resolve" in arguments.flags), end="")
        return 0
    configure(level="WARNING")
    points = sweep_points(arguments.overrides)
    configs = [compose(overrides, arguments.config_dir) for overrides in points]
    for config in configs:
        check(config)
    requests = sweep_requests(configs)
    for config, request in zip(configs, requests, strict=True):
        refuse_itself(config, ledger_of(config, request))
    codes, before = [], None
    for overrides, config, request in zip(points, configs, requests, strict=True):
        if len(points) > 1:
            print(f"-- {' '.join(overrides)}", flush=True)
        codes.append(run_one(config, request, arguments, after=before))
        before = ledger_of(config, request)
    if len({request.workers for request in requests}) > 1 and not is_dry(configs[0], arguments):
        ledgers = map(ledger_of, configs, requests)
        print(f"the speed-ups: rag-hpc scaling {' '.join(ledger.handle for ledger in ledgers)}")
    return max(codes)


def plan(arguments: Arguments) -> int:
    """Print what a run would do."""
    arguments.flags.add("--dry-run")
    return run(arguments)


def sweep_requests(configs: list[RunConfig]) -> list[Request]:
    """Return the points' requests; where points differ in workers alone, a suffix keeps one from resuming another.

    Raises ConfigError, before anything is started, for two points that would still be one run.
    """
    requests = [make_request(config) for config in configs]
    if _shared_name(requests):
        requests = [dataclasses.replace(request, run=f"{request.run}-w{request.workers}") for request in requests]
    if name := _shared_name(requests):
        raise ConfigError(f"the sweep has several points of run={name}; leave run= away, or sweep over it too")
    return requests


def refuse_itself(config: RunConfig, ledger: Ledger) -> None:
    """Raise ConfigError for a run that is to be held against itself: it would wait for its own end."""
    if ledger.run_dir in [Path(run).resolve() for run in (*config.stage.dedup.against, config.corpus.previous) if run]:
        raise ConfigError(f"run={ledger.name} is named in its own stage.dedup.against or corpus.previous; "
                          "give the new run another name, run=NAME")


def is_dry(config: RunConfig, arguments: Arguments) -> bool:
    """Return whether the run is only to be shown."""
    return config.dry_run or "--dry-run" in arguments.flags


def ledger_of(config: RunConfig, request: Request) -> Ledger:
    """Return the files of the run that the request asks for; nothing is made."""
    return Ledger((runs_root(config.cluster.root) / request.run).resolve())


def run_one(config: RunConfig, request: Request, arguments: Arguments, after: Ledger | None = None) -> int:
    """Start or resume one run; on a cluster return as soon as its chain is queued, to start when `after` has ended."""
    from rag_hpc.config import Launcher
    from rag_hpc.schema import to_plain

    ledger = ledger_of(config, request)
    if is_dry(config, arguments):
        from rag_hpc.launchers.dryrun import show

        print(show(ledger, request, config, after))
        return 0
    check_cluster(ledger, config)
    ledger.create(to_plain(config))
    if config.cluster.launcher is Launcher.slurm:
        from rag_hpc.launchers.chain import submit
        from rag_hpc.launchers.watch import watch

        report_submission(ledger, submit(ledger, request, after=after))
        return watch(ledger) if config.watch or "--watch" in arguments.flags else 0
    return run_here(ledger, ledger.submit(request))


def run_here(ledger: Ledger, request: Request) -> int:
    """Run a submission in processes of this machine, with progress bars."""
    from rag_hpc.launchers.progress import Bars

    try:
        with Bars(request) as bars:
            finished = local.run_all(ledger, request, on_poll=_watching(ledger, request, bars.poll(ledger)))
    except Interrupted:
        raise
    except IncompleteError as error:
        raise IncompleteError("\n".join([str(error), *_last_errors(ledger)])) from error
    from rag_hpc.launchers.status import print_if_empty, stage_rows

    print(f"run={ledger.name}: {len(finished)} stages finished; see: rag-hpc report run={ledger.handle}")
    print_if_empty(ledger, stage_rows(ledger, request))
    return 0


def retry(arguments: Arguments) -> int:
    """Go on with a run; `workers=N` may differ from before, since units do not depend on it."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    last = ledger.request()
    given = {key: arguments.override(key) for key in ("workers", "allow_failed_units")}
    workers = whole_number("workers", given["workers"], last.workers, least=1)
    allow = whole_number("allow_failed_units", given["allow_failed_units"], last.allow_failed_units, least=0)
    for folder in ledger.run_dir.glob("*-*/failures"):
        failures.forgive(folder.parent)
        manifest.reopen(folder.parent)
    request = dataclasses.replace(last, workers=workers, allow_failed_units=allow, resubmits=0, reason="retry",
                                  python=sys.executable)
    if request.cluster["launcher"] == "slurm":
        from rag_hpc.launchers.chain import submit

        report_submission(ledger, submit(ledger, request))
        return 0
    return run_here(ledger, ledger.submit(request))


def report_submission(ledger: Ledger, request: Request) -> None:
    """Say that the chain is queued, or that nothing was left to queue."""
    if ledger.jobs(request.number):
        print(f"submitted run={ledger.name} as submission {request.number}; "
              f"follow it: rag-hpc status run={ledger.handle}")
    else:
        print(f"run={ledger.name}: every stage is finished; see: rag-hpc report run={ledger.handle}")


def cancel(arguments: Arguments) -> int:
    """Stop the run's jobs: by scancel on a cluster, by signal here."""
    from rag_hpc.launchers.cancel import cancel_run

    ledger = find_run(root_of(arguments), name_of(arguments))
    last = ledger.request()
    if last.cluster["launcher"] != "slurm":  # its workers may end their stage; this stops the launcher from the next
        ledger.add_job(last.number, stage="", kind="cancel", ids=[])
    stopped = cancel_run(ledger)
    print(f"run={ledger.name}: {stopped}; go on: rag-hpc retry run={ledger.handle}")
    return 0


def clean(arguments: Arguments) -> int:
    """Remove drafts and the stage folders of other settings than the latest; `--all` removes the run."""
    if "--all" in arguments.flags and name_of(arguments) is None:
        raise ConfigError("clean --all removes a whole run: say which, run=NAME; see: rag-hpc status")
    ledger = find_run(root_of(arguments), name_of(arguments))
    refuse_while_busy(ledger)
    with naming_disk(ledger.run_dir):
        if "--all" in arguments.flags:
            shutil.rmtree(ledger.run_dir)
            print(f"removed {ledger.run_dir}")
        else:
            num_stale = remove_stale(ledger)
            print(f"run={ledger.name}: removed {num_stale} stale stage folders and all drafts")
    return 0


def remove_stale(ledger: Ledger) -> int:
    """Remove the run's drafts and the stage folders of other settings than the latest; return how many folders."""
    from rag_hpc.launchers.status import stage_rows

    last = ledger.request()
    # any of them may have been cut short before it planned its later stages
    alike = [r for r in map(ledger.request, ledger.submissions()) if r.settings == last.settings]
    used = {row["folder"] for request in alike for row in stage_rows(ledger, request) if row["folder"]}
    stale = [p for p in ledger.run_dir.iterdir() if p.is_dir() and _is_stage_folder(p) and p.name not in used]
    for folder in stale:
        shutil.rmtree(folder)
    for name in used:
        commit.sweep(ledger.run_dir / name / commit.UNITS, submission=last.number + 1)
        drop_dir(ledger.run_dir / name / commit.CARRY)
    return len(stale)


def refuse_while_busy(ledger: Ledger) -> None:
    """Raise ConfigError while workers of the run are at work or queued."""
    from rag_hpc.launchers.cancel import is_ours

    last = ledger.request()
    busy: list[Any] = [p for job in ledger.jobs() for p in job.get("pids", []) if is_ours(p, ledger.run_dir)]
    if last.cluster["launcher"] == "slurm":
        from rag_hpc.launchers.chain import live_ids
        from rag_hpc.slurm.client import connect

        busy = live_ids(ledger, connect(last.cluster["name"], last.cluster["slurm_conf"]), last.number)
    if busy:
        raise ConfigError(f"run={ledger.name}: {len(busy)} workers or jobs of it are still there; "
                          f"first: rag-hpc cancel run={ledger.handle}")


def make_request(config: RunConfig) -> Request:
    """Return the submission that the config asks for, still without a number."""
    from rag_hpc.schema import to_plain

    settings = {stage: to_plain(config.stage_config(stage)) for stage in config.stages}
    name = config.run or default_name(config, settings)
    return Request(
        run=name, number=0, stages=config.stages, settings=settings, workers=config.num_workers,
        cluster=to_plain(config.cluster), max_attempts=config.max_attempts,
        allow_failed_units=config.allow_failed_units, backup_after_s=config.backup_after_s, python=sys.executable,
        environment={key: str(value) for key, value in config.cluster.env.items()},
    )


def default_name(config: RunConfig, settings: dict[str, dict[str, Any]]) -> str:
    """Return a run's name from what was asked, never from the clock: the same command resumes."""
    return f"{config.corpus.name}-{config.pipeline.name}-{hash_value(settings)[:8]}"


def check_cluster(ledger: Ledger, config: RunConfig) -> None:
    """Raise ConfigError, before the run's folder is made, where no job can be submitted or none would find the run."""
    if config.cluster.launcher.value != "slurm":
        return
    from rag_hpc.launchers.chain import check_places
    from rag_hpc.slurm.client import connect

    connect(config.cluster.name, config.cluster.slurm_conf).require()
    check_places(ledger, config.cluster)


def whole_number(name: str, given: str | None, default: int, *, least: int) -> int:
    """Return the number given, or the default. Raises ConfigError for what is none, or less than `least`."""
    if given is None:
        return default
    if not given.isdecimal() or int(given) < least:
        raise ConfigError(f"{name}={given}: a whole number is needed, at least {least}")
    return int(given)


def sweep_points(overrides: list[str]) -> list[list[str]]:
    """Return the override lists of a sweep, as Hydra's basic sweeper splits them (`key=a,b`); one list of no sweep."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return [overrides]  # composing says what is wrong
    if not any(override.is_sweep_override() for override in parsed):
        return [overrides]
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(point) for batch in batches for point in batch]


def root_of(arguments: Arguments) -> Path:
    """Return the folder of runs that the arguments point at."""
    direct = arguments.override("cluster.root")
    if direct or not arguments.override("cluster"):
        return runs_root(direct)
    from rag_hpc.config import compose

    config = compose([o for o in arguments.overrides if o.startswith("cluster")], arguments.config_dir)
    return runs_root(config.cluster.root)


def name_of(arguments: Arguments) -> str | None:
    """Return the run's name: `run=NAME` or the first word, None for the latest run."""
    return arguments.override("run") or (arguments.words[0] if arguments.words else None)


def as_json(value: Any) -> str:
    """Return what a script reads."""
    return json.dumps(value, indent=2, sort_keys=True)


def _shared_name(requests: list[Request]) -> str | None:
    names = [request.run for request in requests]
    return next((name for name in names if names.count(name) > 1), None)


def _watching(ledger: Ledger, request: Request, draw: local.Watcher) -> local.Watcher:
    """Return `draw` with a look for a cancellation, which raises Interrupted."""
    def poll(plan: Plan) -> None:
        draw(plan)
        if any(job["kind"] == "cancel" for job in ledger.jobs(request.number)):
            raise Interrupted(f"run={ledger.name}: cancelled; what is committed stays, go on: "
                              f"rag-hpc retry run={ledger.handle}")

    return poll


def _last_errors(ledger: Ledger) -> list[str]:
    """Return what the log written last holds of errors."""
    from rag_hpc.launchers.status import error_lines, log_files

    return [line for path in log_files(ledger, None)
            for line in error_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())]


def _is_stage_folder(path: Path) -> bool:
    return (path / commit.UNITS).is_dir()
