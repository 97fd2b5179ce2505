"""The verbs that start, go on with, and stop runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core import commit, failures
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.log import configure
from rag_hpc.errors import ConfigError
from rag_hpc.launchers import local
from rag_hpc.launchers.ledger import Ledger, Request, find_run, runs_root

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments
    from rag_hpc.config import RunConfig

log = logging.getLogger(__name__)


def run(arguments: Arguments) -> int:
    """Run a pipeline, or each point of a sweep (`-m`), one after another."""
    from rag_hpc.config import compose, compose_plain

    if arguments.words:
        raise ConfigError(f"run takes key=value overrides, not {arguments.words[0]!r}; see: rag-hpc run --cfg job")
    if "--cfg" in arguments.values:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(compose_plain(arguments.overrides, arguments.config_dir),
                                resolve="--resolve" in arguments.flags), end="")
        return 0
    points = sweep_points(arguments.overrides) if arguments.multirun else [arguments.overrides]
    codes = []
    for overrides in points:
        config = compose(overrides, arguments.config_dir)
        if len(points) > 1:
            print(f"-- {' '.join(overrides)}")
        codes.append(run_one(config, arguments))
    return max(codes)


def plan(arguments: Arguments) -> int:
    """Print what a run would do."""
    arguments.flags.add("--dry-run")
    return run(arguments)


def run_one(config: RunConfig, arguments: Arguments) -> int:
    """Start or resume one run; on a cluster return as soon as its chain is queued."""
    from rag_hpc.config import Launcher
    from rag_hpc.schema import to_plain

    configure(level="WARNING")
    request = make_request(config)
    dry = config.dry_run or "--dry-run" in arguments.flags
    ledger = Ledger((runs_root(config.cluster.root) / request.run).resolve())
    check(config)
    if dry:
        from rag_hpc.launchers.dryrun import show

        print(show(ledger, request, config))
        return 0
    ledger.create(to_plain(config))
    if config.cluster.launcher is Launcher.slurm:
        from rag_hpc.launchers.chain import submit
        from rag_hpc.launchers.watch import watch

        request = submit(ledger, request)
        print(f"submitted run={ledger.name} as submission {request.number}; follow it: rag-hpc status run={ledger.name}")
        return watch(ledger) if config.watch or "--watch" in arguments.flags else 0
    return run_here(ledger, ledger.submit(request))


def run_here(ledger: Ledger, request: Request) -> int:
    """Run a submission in processes of this machine, with progress bars."""
    from rag_hpc.launchers.progress import Bars

    with Bars(request) as bars:
        finished = local.run_all(ledger, request, on_poll=bars.poll(ledger))
    print(f"run={ledger.name}: {len(finished)} stages finished; see: rag-hpc report run={ledger.name}")
    return 0


def retry(arguments: Arguments) -> int:
    """Go on with a run; `workers=N` may differ from before, since units do not depend on it."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    last = ledger.request()
    for folder in ledger.run_dir.glob("*-*/failures"):
        failures.forgive(folder.parent)
    workers = int(arguments.override("workers") or last.workers)
    allow = int(arguments.override("allow_failed_units") or last.allow_failed_units)
    request = dataclasses.replace(last, workers=workers, allow_failed_units=allow, resubmits=0, reason="retry",
                                  python=sys.executable)
    if request.cluster["launcher"] == "slurm":
        from rag_hpc.launchers.chain import submit

        request = submit(ledger, request)
        print(f"submitted run={ledger.name} as submission {request.number}")
        return 0
    return run_here(ledger, ledger.submit(request))


def cancel(arguments: Arguments) -> int:
    """Stop the run's jobs: by scancel on a cluster, by signal here."""
    from rag_hpc.launchers.cancel import cancel_run

    ledger = find_run(root_of(arguments), name_of(arguments))
    stopped = cancel_run(ledger)
    print(f"run={ledger.name}: {stopped}; go on: rag-hpc retry run={ledger.name}")
    return 0


def clean(arguments: Arguments) -> int:
    """Remove drafts and stage folders that the latest submission does not use; `--all` removes the run."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    if "--all" in arguments.flags:
        shutil.rmtree(ledger.run_dir)
        print(f"removed {ledger.run_dir}")
        return 0
    from rag_hpc.launchers.status import stage_rows

    last = ledger.request()
    used = {row["folder"] for row in stage_rows(ledger, last) if row["folder"]}
    stale = [p for p in ledger.run_dir.iterdir() if p.is_dir() and _is_stage_folder(p) and p.name not in used]
    for folder in stale:
        shutil.rmtree(folder)
    for name in used:
        commit.sweep(ledger.run_dir / name / commit.UNITS, submission=last.number + 1)
    print(f"run={ledger.name}: removed {len(stale)} stale stage folders and all drafts")
    return 0


def make_request(config: RunConfig) -> Request:
    """Return the submission that the config asks for, still without a number."""
    from rag_hpc.schema import to_plain

    settings = {stage: to_plain(config.stage_config(stage)) for stage in config.pipeline.stages}
    name = config.run or default_name(config, settings)
    return Request(
        run=name, number=0, stages=list(config.pipeline.stages), settings=settings, workers=config.num_workers,
        cluster=to_plain(config.cluster), max_attempts=config.max_attempts,
        allow_failed_units=config.allow_failed_units, backup_after_s=config.backup_after_s, python=sys.executable,
        environment={key: str(value) for key, value in config.cluster.env.items()},
    )


def default_name(config: RunConfig, settings: dict[str, dict[str, Any]]) -> str:
    """Return a run's name from what was asked, never from the clock: the same command resumes."""
    return f"{config.corpus.name}-{config.pipeline.name}-{hash_value(settings)[:8]}"


def check(config: RunConfig) -> None:
    """Raise ConfigError, before anything is queued, for what would fail in a job."""
    from rag_hpc.stages.chunk import check_limit
    from rag_hpc.stages.evaluate import check_measures
    from rag_hpc.stages.registry import stage_class

    seen: set[str] = set()
    for stage in config.pipeline.stages:
        missing = [need for need in stage_class(stage).needs if need not in seen]
        if missing:
            raise ConfigError(f"pipeline.stages: {stage} needs {', '.join(missing)} before it")
        seen.add(stage)
    if not seen:
        raise ConfigError("pipeline.stages is empty; try pipeline=cluster or pipeline=baseline")
    if "chunk" in seen:
        check_limit(config.stage.chunk)
    if "lexical" in seen:
        from rag_hpc.lucene import require_java

        require_java()
    if "evaluate" in seen:
        check_measures(config.stage.evaluate.measures)
    if "rerank" in seen and not config.stage.rerank.model:
        raise ConfigError("pipeline=rerank: set stage.rerank.model to the folder of a cross-encoder")


def sweep_points(overrides: list[str]) -> list[list[str]]:
    """Return the override lists of a sweep, as Hydra's basic sweeper splits them (`key=a,b`)."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
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


def _is_stage_folder(path: Path) -> bool:
    return (path / commit.UNITS).is_dir()
