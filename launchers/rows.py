"""What a run's files tell of it: a row a stage, why nothing may be left, and where its logs lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rag_hpc.core import manifest
from rag_hpc.core.commit import UNITS, committed, drafts
from rag_hpc.core.failures import failure_counts
from rag_hpc.core.ledger import Ledger, Submission, mend
from rag_hpc.core.log import folded, shown
from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import Plan, read_plans
from rag_hpc.core.summary import in_and_out
from rag_hpc.errors import CorruptOutput
from rag_hpc.stores import tables

NUM_ERRORS = 5
WAITING = {"folder": None, "units": 0, "done": 0, "open": 0, "failed": 0, "state": "waiting"}  # not planned yet
DAMAGED = "damaged"


def stage_rows(submission: Submission) -> list[dict[str, Any]]:
    """Return one row a stage: folder, units planned, done and open, failed units, state; of a damaged one the flaws."""
    request = submission.request
    plans = read_plans(submission.run_dir, submission.number, request.stages, request.settings)
    return [
        {"stage": stage, **(_planned(submission.run_dir, plans[stage]) if stage in plans else WAITING)}
        for stage in request.stages
    ]


def say(line: str) -> None:
    """Print a line; on a terminal in several where it is too narrow, but never amid a command that is to be copied."""
    print(folded(line, sys.stdout))


def print_damage(ledger: Ledger, rows: list[dict[str, Any]]) -> None:
    """Print what of the finished stages is damaged, and what to do."""
    lines = [f"{row['stage']}: {flaw}" for row in rows for flaw in row.get("flaws", [])]
    if lines:
        more = [f"and {len(lines) - NUM_ERRORS} more"] * (len(lines) > NUM_ERRORS)
        for line in (*lines[:NUM_ERRORS], *more, mend(ledger.run_dir)):
            say(line)


def print_in_and_out(ledger: Ledger) -> None:
    """Print what went into the run and came out, as far as its latest submission's stages are finished."""
    submission = ledger.submission()
    plans = read_plans(ledger.run_dir, submission.number, submission.request.stages, submission.request.settings)
    folders = {stage: ledger.run_dir / plan.folder for stage, plan in plans.items()}
    found = {stage: manifest.load(path) for stage, path in folders.items() if (path / MANIFEST).exists()}
    if line := in_and_out(found, plans):
        say(shown(line))


def print_if_empty(ledger: Ledger, rows: list[dict[str, Any]]) -> None:
    """Print which stage dropped all that it took in, and why: a wrong setting, as a rule, that stops nothing."""
    for row in rows:
        if row["state"] != "finished" or row["stage"].startswith("crawl."):  # later rounds may well find nothing
            continue
        done = manifest.load(ledger.run_dir / row["folder"])
        dropped = sorted(done.dropped().items(), key=lambda item: (-item[1], item[0]))
        if dropped and done.total("items_out") == 0:
            counts = ", ".join(f"{reason} {count}" for reason, count in dropped[:NUM_ERRORS])
            say(f"nothing is left: {row['stage']} dropped all {done.total('items_in')} ({shown(counts)})")
            for path in done.files(tables.REJECTS)[:1]:
                first = {key: shown(text) for key, text in tables.read_table(path).slice(0, 1).to_pylist()[0].items()}
                say(
                    f"the first: {first['id']}: {first['reason']} {first['detail']}; "
                    f"more in {done.folder}/{UNITS}/*/{tables.REJECTS}"
                )
            return


def overall(rows: list[dict[str, Any]]) -> str:
    """Return the state of the run: finished, failed, damaged, or running (which includes waiting for its turn)."""
    states = {row["state"] for row in rows}
    if states == {"finished"}:
        return "finished"
    return "failed" if "failed" in states else DAMAGED if DAMAGED in states else "unfinished"


def log_files(ledger: Ledger, stage: str | None) -> list[Path]:
    """Return the logs of a stage in all submissions, oldest first; without a stage, the log written last."""
    folder = ledger.run_dir / "submissions"
    packed = [
        *folder.glob(f"*/{stage or '*'}.log"),
        *folder.glob(f"*/jobs/{stage or '*'}.*log"),
        *folder.glob(f"*/jobs/{stage or '*'}*/*.out"),
    ]
    ordered = sorted(set(packed), key=lambda p: p.stat().st_mtime)
    return ordered if stage else ordered[-1:]


def error_lines(lines: list[str]) -> list[str]:
    """Return the last lines of a log that workers wrote as errors: MPI's own last words are many and say little."""
    return [line for line in lines if " ERROR " in line][-NUM_ERRORS:]


def _planned(run_dir: Path, plan: Plan) -> dict[str, Any]:
    stage_dir = run_dir / plan.folder
    done = committed(stage_dir / UNITS)
    begun = set(drafts(stage_dir / UNITS).values()) - done
    tries = {index: number for index, number in failure_counts(stage_dir).items() if index not in done}
    failed = [index for index, number in tries.items() if number >= plan.policy.max_attempts]
    finished = (stage_dir / MANIFEST).exists()
    flaws = _flaws(stage_dir) if finished else []
    state = DAMAGED if flaws else "finished" if finished else "open"
    if not finished and len(failed) > plan.policy.allow_failed_units:
        state = "failed"
    counts = {"units": len(plan.units), "done": len(done), "open": len(begun), "failed": len(failed)}
    return {"folder": plan.folder, **counts, "state": state, **({"flaws": flaws} if flaws else {})}


def _flaws(stage_dir: Path) -> list[str]:
    """Return what a look at a finished stage's sizes finds wrong."""
    try:
        return [str(flaw) for flaw in manifest.load(stage_dir).flaws()]
    except CorruptOutput as error:
        return [str(error)]
