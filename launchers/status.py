"""How far a run is: from committed units first, the scheduler second, so that it works without one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, name_of, reads_shared, root_of, whole_number
from rag_hpc.core.failures import failures
from rag_hpc.core.ledger import Submission, find_run
from rag_hpc.core.log import shown
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.cancel import is_ours
from rag_hpc.launchers.chain import job_lines
from rag_hpc.launchers.rows import (
    DAMAGED,
    error_lines,
    log_files,
    overall,
    print_damage,
    print_if_empty,
    say,
    stage_rows,
)
from rag_hpc.launchers.watch import never_starts
from rag_hpc.slurm.states import AGAIN, UNKNOWN

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

TAIL_LINES = 15


def status(arguments: Arguments) -> int:
    """Print one line a stage of each run named; exit 1 when one failed or is damaged, 3 when work is left, else 0."""
    given = arguments.override("run")
    names: list[str | None] = [given] if given else [*arguments.words] or [None]
    root, shared = root_of(arguments), reads_shared(arguments)
    submissions = [find_run(root, name, shared=shared).submission() for name in names]
    found = [_status_of(submission) for submission in submissions]
    if "--json" in arguments.flags:
        print(as_json(found if len(found) > 1 else found[0]))
    else:
        for number, (submission, one) in enumerate(zip(submissions, found, strict=True)):
            print(end="\n" * (number > 0))
            _print_status(submission, one)
    codes = [{"finished": 0, "failed": 1, DAMAGED: 1}.get(one["state"], 3) for one in found]
    return 1 if 1 in codes else max(codes)


def _status_of(submission: Submission) -> dict[str, Any]:
    rows = stage_rows(submission)
    found = {"run": submission.ledger.name, "state": overall(rows), "submission": submission.number, "stages": rows}
    return {**found, "jobs": job_lines(submission)}


def _print_status(submission: Submission, found: dict[str, Any]) -> None:
    ledger, rows, state, queue = submission.ledger, found["stages"], found["state"], found["jobs"]
    workers = submission.request.workers
    say(f"run {ledger.name}  submission {submission.number}  workers {workers}  {state}")
    print(f"{'stage':<18}{'units':>12}{'open':>6}{'failed':>8}  state")
    for row in rows:
        units = f"{row['done']:>6}/{row['units'] or '?':<5}"
        print(f"{row['stage']:<18}{units}{row['open']:>6}{row['failed']:>8}  {row['state']}")
    _print_jobs(queue)
    print_damage(ledger, rows)
    print_if_empty(ledger, rows)
    if state not in ("finished", DAMAGED):
        say(next_step(submission, queue))


def logs(arguments: Arguments) -> int:
    """Print the log of a stage (the latest one that has a log by default); `--lines N` prints the end only."""
    words = arguments.words
    ledger = find_run(root_of(arguments), arguments.override("run"), shared=reads_shared(arguments))
    found = log_files(ledger, words[0] if words else None)
    if not found:
        raise ConfigError(f"run={ledger.name}: no log{' of ' + words[0] if words else ''} yet; see: rag-hpc status")
    limit = whole_number("--lines", arguments.values.get("--lines"), 0, least=1)
    for path in found:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        print(shown("\n".join([f"==> {path} <==", *lines[-limit:]]), block=True))
    return 0


def why(arguments: Arguments) -> int:
    """Print one screen about the stage that does not go on; the exit code is that of `status`."""
    ledger = find_run(root_of(arguments), name_of(arguments), shared=reads_shared(arguments))
    submission = ledger.submission()
    rows = stage_rows(submission)
    state = overall(rows)
    print(f"run {ledger.name}: {state}")
    if state == "finished":
        print_if_empty(ledger, rows)
        return 0
    print_damage(ledger, rows)
    if state == DAMAGED:
        return 1
    row = next((r for r in rows if r["state"] == "failed"), None) or next(r for r in rows if r["state"] != "finished")
    units = f"{row['done']} of {row['units'] or '?'} units"
    print(f"stage {row['stage']}: {units}, {row['open']} open, {row['failed']} failed")
    value = submission.outcome(row["stage"])
    if value:
        say(shown(f"gate: {value['outcome']}: {value['reason']}"))
    queue = job_lines(submission)
    _print_jobs(queue)
    if row["folder"]:
        _print_failure(ledger.run_dir / row["folder"])
    for path in log_files(ledger, row["stage"])[-1:]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [*error_lines(lines[:-TAIL_LINES]), f"-- end of {path}", *lines[-TAIL_LINES:]]
        print(shown("\n".join(said), block=True))
    print_if_empty(ledger, rows)
    say(next_step(submission, queue))
    return 1 if state == "failed" else 3


def next_step(submission: Submission, queue: list[dict[str, Any]]) -> str:
    """Return what is to be done about a run that is not finished; nothing while it goes on by itself."""
    ledger = submission.ledger
    if submission.is_cancelled():
        return f"cancelled; go on: rag-hpc retry run={ledger.handle}"
    lines = [line for line in queue if line["outlook"] != "superseded"]
    if never_starts(lines):
        return f"nothing goes on as it is: mend what is named {AGAIN}, or clear it: rag-hpc cancel run={ledger.handle}"
    if any(line["state"] == UNKNOWN for line in lines):
        return "the scheduler does not say how it stands; ask again in a minute"
    if lines:
        return "it goes on by itself: nothing to do"
    pids = [pid for job in submission.jobs() for pid in job.get("pids", [])]
    if any(is_ours(pid, ledger.run_dir) for pid in pids):
        return "its workers are at work on this machine: nothing to do"
    return f"go on: rag-hpc retry run={ledger.handle}"


def _print_jobs(queue: list[dict[str, Any]]) -> None:
    for line in queue:
        say(f"job {line['job']}: {line['stage']} {line['kind']} {line['state']} {shown(line['reason'])}".rstrip())


def _print_failure(stage_dir: Path) -> None:
    found = failures(stage_dir)
    if not found:
        return
    index, tries = max(found.items(), key=lambda item: item[1][-1]["unix"])
    last = tries[-1]
    age = time.time() - last["unix"]
    print(f"-- unit-{index:05d} failed {len(tries)} times, last {age:.0f} s ago on {shown(last['host'])}")
    print(shown(last["traceback"].rstrip(), block=True))
