"""How far a run is: from committed units first, the scheduler second, so that it works without one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.core import manifest, tables
from rag_hpc.core.commit import UNITS, committed, drafts
from rag_hpc.core.failures import failures
from rag_hpc.core.fs import read_json
from rag_hpc.core.manifest import MANIFEST
from rag_hpc.core.plan import plan_path
from rag_hpc.errors import ConfigError
from rag_hpc.launchers.ledger import Ledger, Request, find_run
from rag_hpc.launchers.verbs import as_json, name_of, root_of, whole_number

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments

TAIL_LINES = 15
NUM_ERRORS = 5


def status(arguments: Arguments) -> int:
    """Print one line a stage; exit 0 when the run is finished, 3 when work is left, 1 when failures stopped it."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    request = ledger.request()
    rows = stage_rows(ledger, request)
    state = overall(rows)
    queue = scheduler_states(ledger, request)
    if "--json" in arguments.flags:
        print(as_json({"run": ledger.name, "state": state, "submission": request.number, "stages": rows,
                       "jobs": queue}))
    else:
        print(f"run {ledger.name}  submission {request.number}  workers {request.workers}  {state}")
        print(f"{'stage':<18}{'units':>12}{'open':>6}{'failed':>8}  state")
        for row in rows:
            units = f"{row['done']:>6}/{row['units'] or '?':<5}"
            print(f"{row['stage']:<18}{units}{row['open']:>6}{row['failed']:>8}  {row['state']}")
        for line in queue:
            print(f"job {line['job']}: {line['stage']} {line['kind']} {line['state']} {line['reason']}")
        print_if_empty(ledger, rows)
    return {"finished": 0, "failed": 1}.get(state, 3)


def logs(arguments: Arguments) -> int:
    """Print the log of a stage (the latest one that has a log by default); `--lines N` prints the end only."""
    words = arguments.words
    ledger = find_run(root_of(arguments), arguments.override("run"))
    found = log_files(ledger, words[0] if words else None)
    if not found:
        raise ConfigError(f"run={ledger.name}: no log{' of ' + words[0] if words else ''} yet; see: rag-hpc status")
    limit = whole_number("--lines", arguments.values.get("--lines"), 0, least=1)
    for path in found:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"==> {path} <==", *lines[-limit:], sep="\n")
    return 0


def why(arguments: Arguments) -> int:
    """Print one screen about the stage that does not go on; the exit code is that of `status`."""
    ledger = find_run(root_of(arguments), name_of(arguments))
    request = ledger.request()
    rows = stage_rows(ledger, request)
    state = overall(rows)
    print(f"run {ledger.name}: {state}")
    if state == "finished":
        print_if_empty(ledger, rows)
        return 0
    row = next((r for r in rows if r["state"] == "failed"), None) or next(r for r in rows if r["state"] != "finished")
    units = f"{row['done']} of {row['units'] or '?'} units"
    print(f"stage {row['stage']}: {units}, {row['open']} open, {row['failed']} failed")
    outcome = ledger.folder(request.number) / f"{row['stage']}.outcome.json"
    if outcome.exists():
        value = read_json(outcome)
        print(f"gate: {value.get('outcome')}: {value.get('reason')}")
    for line in scheduler_states(ledger, request):
        print(f"job {line['job']}: {line['stage']} {line['kind']} {line['state']} {line['reason']}")
    if row["folder"]:
        _print_failure(ledger.run_dir / row["folder"])
    for path in log_files(ledger, row["stage"])[-1:]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*error_lines(lines[:-TAIL_LINES]), f"-- end of {path}", *lines[-TAIL_LINES:], sep="\n")
    print_if_empty(ledger, rows)
    print(f"go on: rag-hpc retry run={ledger.handle}")
    return 1 if state == "failed" else 3


def stage_rows(ledger: Ledger, request: Request) -> list[dict[str, Any]]:
    """Return one row a stage: folder, units planned, done and open, failed units, state."""
    rows = []
    for stage in request.stages:
        path = plan_path(ledger.run_dir, request.number, stage)
        row: dict[str, Any] = {"stage": stage, "folder": None, "units": 0, "done": 0, "open": 0, "failed": 0,
                               "state": "waiting"}
        if path.exists():
            row |= _planned(ledger, read_json(path))
        rows.append(row)
    return rows


def print_if_empty(ledger: Ledger, rows: list[dict[str, Any]]) -> None:
    """Print which stage dropped all that it took in, and why: a wrong setting, as a rule, that stops nothing."""
    for row in rows:
        if row["state"] != "finished" or row["stage"].startswith("crawl."):  # later rounds may well find nothing
            continue
        done = manifest.load(ledger.run_dir / row["folder"])
        dropped = sorted(done.dropped().items(), key=lambda item: (-item[1], item[0]))
        if dropped and done.total("items_out") == 0:
            counts = ", ".join(f"{reason} {count}" for reason, count in dropped[:NUM_ERRORS])
            print(f"nothing is left: {row['stage']} dropped all {done.total('items_in')} ({counts})")
            for path in done.files(tables.REJECTS)[:1]:
                first = tables.read_table(path).slice(0, 1).to_pylist()[0]
                print(f"the first: {first['id']}: {first['reason']} {first['detail']}; "
                      f"more in {done.folder}/{UNITS}/*/{tables.REJECTS}")
            return


def overall(rows: list[dict[str, Any]]) -> str:
    """Return the state of the run: finished, failed, or running (which includes waiting for its turn)."""
    states = {row["state"] for row in rows}
    if states == {"finished"}:
        return "finished"
    return "failed" if "failed" in states else "unfinished"


def log_files(ledger: Ledger, stage: str | None) -> list[Path]:
    """Return the logs of a stage in all submissions, oldest first; without a stage, the log written last."""
    folder = ledger.run_dir / "submissions"
    packed = [*folder.glob(f"*/{stage or '*'}.log"), *folder.glob(f"*/jobs/{stage or '*'}.*log"),
              *folder.glob(f"*/jobs/{stage or '*'}*/*.out")]
    ordered = sorted(set(packed), key=lambda p: p.stat().st_mtime)
    return ordered if stage else ordered[-1:]


def error_lines(lines: list[str]) -> list[str]:
    """Return the last lines of a log that workers wrote as errors: MPI's own last words are many and say little."""
    return [line for line in lines if " ERROR " in line][-NUM_ERRORS:]


def scheduler_states(ledger: Ledger, request: Request) -> list[dict[str, Any]]:
    """Return what the scheduler says of the submission's live jobs, asked at most every 30 s; empty for local runs."""
    if request.cluster.get("launcher") != "slurm":
        return []
    from rag_hpc.launchers.chain import job_lines

    return job_lines(ledger, request)


def _planned(ledger: Ledger, plan: dict[str, Any]) -> dict[str, Any]:
    folder = f"{plan['stage']}-{plan['fingerprint'][:12]}"
    stage_dir = ledger.run_dir / folder
    done = committed(stage_dir / UNITS)
    begun = set(drafts(stage_dir / UNITS).values()) - done
    failed = [i for i, tries in failures(stage_dir).items() if i not in done and len(tries) >= plan["max_attempts"]]
    finished = (stage_dir / MANIFEST).exists()
    state = "finished" if finished else "failed" if len(failed) > plan["allow_failed_units"] else "open"
    return {"folder": folder, "units": len(plan["units"]), "done": len(done), "open": len(begun), "failed": len(failed),
            "state": state}


def _print_failure(stage_dir: Path) -> None:
    found = failures(stage_dir)
    if not found:
        return
    index, tries = max(found.items(), key=lambda item: item[1][-1]["unix"])
    last = tries[-1]
    age = time.time() - last["unix"]
    print(f"-- unit-{index:05d} failed {len(tries)} times, last {age:.0f} s ago on {last['host']}")
    print(last["traceback"].rstrip())
