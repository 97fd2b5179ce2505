"""Measurements: runs that begin with what another run, their base, has finished, and are made one after another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.core.fs import publish_dir
from rag_hpc.core.log import shown
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, Interrupted, RagHpcError
from rag_hpc.launchers import run as runs
from rag_hpc.launchers.chain import job_lines
from rag_hpc.launchers.request import make_request
from rag_hpc.launchers.rows import overall, stage_rows
from rag_hpc.launchers.watch import watch

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.config import RunConfig
    from rag_hpc.core.ledger import Ledger


@dataclass(kw_only=True)
class Cell:
    """A run of a study: in a sweep, repeat `repeat` of the point `p`."""

    config: RunConfig
    base: Ledger | None = None  # whose finished stages it begins with
    p: int = 0
    repeat: int = 0

    @property
    def ledger(self) -> Ledger:
        """Its files; nothing is made."""
        return ledger_of(self.config)

    @property
    def finished(self) -> bool:
        """Whether all its stages are, by a submission of its own."""
        return bool(own_submissions(self.ledger)) and overall(stage_rows(self.ledger.submission())) == "finished"


def ledger_of(config: RunConfig) -> Ledger:
    """Return the files of the run that the config asks for."""
    return runs.ledger_of(config, make_request(config))


def run_all(cells: Sequence[Cell], arguments: Arguments) -> None:
    """Run these one after another, on a cluster too, and return when all have ended; a failure leaves its run as it is.

    Raises ConfigError for what would be wrong with every run, Interrupted when the user stops.
    """
    quiet = dataclasses.replace(arguments, flags=arguments.flags - {"--watch", "--json"})
    requests = [make_request(cell.config) for cell in cells]
    before = None
    for cell, request in zip(cells, requests, strict=True):
        ledger = cell.ledger
        print(f"-- {ledger.name}", file=sys.stderr, flush=True)
        if cell.base is not None:
            _link(cell.base, ledger, cell.config)
        if request.on_slurm and own_submissions(ledger) and job_lines(ledger.submission()):
            continue  # of a command that was stopped
        try:
            with contextlib.redirect_stdout(sys.stderr):
                runs.run_one(cell.config, request, ledger, quiet, after=before)
        except (ConfigError, Interrupted):  # the one would be every run's, the other is the user's wish
            raise
        except RagHpcError as error:
            print(f"{ledger.name}: {shown(str(error))}", file=sys.stderr)
        before = ledger
    for cell, request in zip(cells, requests, strict=True):
        if not request.on_slurm or cell.finished:
            continue
        ledger = cell.ledger
        with contextlib.redirect_stdout(sys.stderr):
            ended = watch(ledger)
        if ended == 3 and job_lines(ledger.submission()):
            raise Interrupted(f"run={ledger.name} goes on; the same command again takes it up")


def run_base(base: Cell, arguments: Arguments) -> None:
    """Run what measurements begin with, unless it is finished. Raises RagHpcError where it does not end well."""
    if not base.finished:
        run_all([base], arguments)
    if not base.finished:
        raise RagHpcError(f"run={base.ledger.name}: not finished, and all else is to begin with it; see: rag-hpc why")


def own_submissions(ledger: Ledger) -> list[int]:
    """Return the submissions of the run itself: those of its base came with its inputs, and fit no run.json of ours."""

    def run_of(number: int) -> Any:
        try:
            return json.loads((ledger.folder(number) / "submission.json").read_bytes()).get("run")
        except (ValueError, AttributeError):  # damaged, which whoever reads it in earnest says
            return ledger.name

    return [number for number in ledger.submissions() if run_of(number) == ledger.name]


def _link(base: Ledger, ledger: Ledger, config: RunConfig) -> None:
    """Give a run what its base has finished of its stages: links where the filesystem has them, each whole or not."""
    from rag_hpc.schema import to_plain

    if base.run_dir == ledger.run_dir:
        return
    ledger.create(to_plain(config), share=config.cluster.share is not None)
    found = [path.parent for path in base.run_dir.glob("*-*/manifest.json")]
    finished = [folder for folder in found if folder.name.rpartition("-")[0] in config.stages]
    asked = [base.folder(number) for number in base.submissions()]  # records name the run of their submission
    with private_files(ledger.run_dir):
        for folder in sorted([*finished, *asked]):
            wanted = ledger.run_dir / folder.relative_to(base.run_dir)
            if not wanted.exists():
                wanted.parent.mkdir(exist_ok=True, mode=0o750)
                draft = ledger.run_dir / f".draft-{folder.name}"
                shutil.rmtree(draft, ignore_errors=True)
                shutil.copytree(folder, draft, copy_function=_link_or_copy)
                publish_dir(draft, wanted)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
