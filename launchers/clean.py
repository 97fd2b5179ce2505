"""`rag-hpc clean`: remove a run's drafts and stale stages, or all of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import name_of, root_of
from rag_hpc.core import commit
from rag_hpc.core.fs import drop_dir, naming_disk
from rag_hpc.core.ledger import Ledger, find_run
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.array import drop_pickles
from rag_hpc.launchers.cancel import is_ours
from rag_hpc.launchers.chain import queued, site_of
from rag_hpc.launchers.rows import stage_rows
from rag_hpc.serve.gateway.places import gateways_of
from rag_hpc.serve.places import groups_of

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments


def clean(arguments: Arguments) -> int:
    """Remove drafts and the stage folders of other settings than the latest; `--all` removes the run."""
    if "--all" in arguments.flags and name_of(arguments) is None:
        raise ConfigError("clean --all removes a whole run: say which, run=NAME; see: rag-hpc status")
    ledger = find_run(root_of(arguments), name_of(arguments))
    refuse_while_busy(ledger)
    if "--all" in arguments.flags and (groups_of(ledger.run_dir) or gateways_of(ledger.run_dir)):
        raise ConfigError(
            f"run={ledger.name}: a resident group or gateway holds it open; first: rag-hpc serve down "
            f"run={ledger.handle}"
        )
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
    last = ledger.submission()
    # any of them may have been cut short before it planned its later stages
    alike = [s for s in map(ledger.submission, ledger.submissions()) if s.request.settings == last.request.settings]
    used = {row["folder"] for submission in alike for row in stage_rows(submission) if row["folder"]}
    stale = [p for p in ledger.run_dir.iterdir() if p.is_dir() and _is_stage_folder(p) and p.name not in used]
    for folder in stale:
        shutil.rmtree(folder)
    for number in ledger.submissions():
        drop_pickles(ledger.folder(number) / "jobs")
    for name in used:
        commit.sweep(ledger.run_dir / name / commit.UNITS, submission=last.number + 1)
        drop_dir(ledger.run_dir / name / commit.CARRY)
    return len(stale)


def refuse_while_busy(ledger: Ledger) -> None:
    """Raise ConfigError while workers of the run are at work or queued."""
    busy: list[Any] = [p for job in ledger.jobs() for p in job.get("pids", []) if is_ours(p, ledger.run_dir)]
    if slurm := site_of(ledger):
        busy += queued(ledger, slurm)
    if busy:
        raise ConfigError(
            f"run={ledger.name}: {len(busy)} workers or jobs of it are still there; "
            f"first: rag-hpc cancel run={ledger.handle}"
        )


def _is_stage_folder(path: Path) -> bool:
    return (path / commit.UNITS).is_dir()
