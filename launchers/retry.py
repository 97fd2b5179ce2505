"""`rag-hpc retry`: go on where a run stopped, with the units that were given up."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from rag_hpc.arguments import name_of, root_of, whole_number
from rag_hpc.core import failures, manifest
from rag_hpc.core.commit import UNITS
from rag_hpc.core.ledger import find_run
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.run import start
from rag_hpc.stages.registry import make_stage

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.core.ledger import Ledger, Request


def retry(arguments: Arguments) -> int:
    """Go on with a run; `workers=N` may differ from before, since units do not depend on it.

    What is damaged is done again: `--files` reads every byte to find it, else sizes and late changes tell.
    """
    ledger = find_run(root_of(arguments), name_of(arguments))
    last = ledger.request()
    check_settings(ledger, last)
    given = {key: arguments.override(key) for key in ("workers", "allow_failed_units")}
    workers = whole_number("workers", given["workers"], last.workers, least=1)
    allow = whole_number("allow_failed_units", given["allow_failed_units"], last.policy.allow_failed_units, least=0)
    for folder in sorted(path.parent for path in ledger.run_dir.glob(f"*-*/{UNITS}")):
        for line in manifest.take_back(folder, every_byte="--files" in arguments.flags):
            print(line, file=sys.stderr)
        if failures.forgive(folder):
            manifest.reopen(folder)
    policy = dataclasses.replace(last.policy, allow_failed_units=allow)
    again = dataclasses.replace(last, resubmits=0, reason="retry", python=sys.executable)
    return start(ledger, dataclasses.replace(again, workers=workers, policy=policy))


def check_settings(ledger: Ledger, request: Request) -> None:
    """Raise ConfigError, before anything is written, for settings that another version of the stages took."""
    for stage, settings in request.settings.items():
        try:
            make_stage(stage, settings)
        except ConfigError as error:
            raise ConfigError(
                f"run={ledger.name} was asked for with another version, whose settings of {stage} are no longer these: "
                f"{str(error).splitlines()[0]}. It can be read, not gone on with; give its rag-hpc run command again "
                "under a new name, run=NAME"
            ) from error
