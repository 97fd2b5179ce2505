"""From a configuration to submissions: one, or those of a sweep."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core.hashing import hash_value
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.errors import ConfigError

if TYPE_CHECKING:
    from rag_hpc.config import RunConfig


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
    held = [*config.stage.dedup.against, getattr(config.corpus, "previous", None)]
    if ledger.run_dir in [Path(run).resolve() for run in held if run]:
        raise ConfigError(
            f"run={ledger.name} is named in its own stage.dedup.against or corpus.previous; "
            "give the new run another name, run=NAME"
        )


def make_request(config: RunConfig) -> Request:
    """Return the submission that the config asks for, still without a number."""
    from rag_hpc.schema import to_plain

    settings = {stage: to_plain(config.stage_config(stage)) for stage in config.stages}
    name = config.run or default_name(config, settings)
    return Request(
        run=name,
        number=0,
        stages=config.stages,
        settings=settings,
        workers=config.num_workers,
        cluster=to_plain(config.cluster),
        policy=config.policy,
        python=sys.executable,
        environment={key: str(value) for key, value in config.cluster.env.items()},
    )


def default_name(config: RunConfig, settings: dict[str, dict[str, Any]]) -> str:
    """Return a run's name from what was asked, never from the clock: the same command resumes."""
    corpus = [config.corpus.name] if "crawl" in settings else []
    return "-".join([*corpus, config.pipeline.name, hash_value(settings)[:8]])


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


def _shared_name(requests: list[Request]) -> str | None:
    names = [request.run for request in requests]
    return next((name for name in names if names.count(name) > 1), None)
