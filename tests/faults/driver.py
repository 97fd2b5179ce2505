"""Runs a small run of toy stages over and over, each time with a fault at another file-system call.

    python driver.py kill FOLDER                     every call, killed before it, writes also in the middle
    python driver.py kill-again FOLDER               the same to the run that follows a killed one
    python driver.py error FOLDER ENOSPC,EIO,EDQUOT  every call fails once
    python driver.py full FOLDER ENOSPC              every call and all that need space after it fail

Each time a child forked from this warmed-up process does the run until the fault; this process then reads what is
there as any other would, and a second child does the same run again without a fault and without any cleaning up.
Prints {"points": N, "calls": [...], "wrong": [...]} as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import numpy as np
import toystages
import toyworker  # noqa: F401  (registers the toy stages)
from osfaults import KILLED, Fault

from rag_hpc import worker
from rag_hpc.core import commit, manifest
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import plan_path, read_plan
from rag_hpc.errors import IncompleteError, RagHpcError
from rag_hpc.launchers.advance import advance
from rag_hpc.stages.registry import make_stage

NAMED = "the filesystem at /"
os.fsync = lambda descriptor: None  # a killed process loses nothing that the kernel has; real ones only cost time


def whole_run(run_dir: Path) -> int:
    """Submit, plan, work and close as the launcher and a worker do; return the exit code."""
    try:
        ledger = toystages.new_ledger(run_dir)
        submission = ledger.submit(toystages.toy_request(ledger.name, workers=1, num_units=2, rows=8))
        while (plan := advance(submission).open_plan) is not None:
            code = worker.main([str(plan_path(run_dir, plan.submission, plan.stage)), "0"])
            if code:
                return code
    except RagHpcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def in_child(run_dir: Path, fault: Fault) -> tuple[int, str]:
    """Return the exit code and the standard error of the run in a forked child.

    Its scratch begins empty: what one killed there left would be removed, by as many more calls, once only.
    """
    log, scratch = run_dir.with_suffix(".log"), run_dir.with_suffix(".scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    os.environ["RAG_HPC_SCRATCH"] = str(scratch)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            remove = fault.install()
            code = whole_run(run_dir)
            remove()
        except BaseException:  # noqa: BLE001  (a forked child must never return into its parent's code)
            traceback.print_exc()
        finally:
            print(f"hit: {fault.hit}", file=sys.stderr)
            if fault.kind == "count":
                run_dir.with_suffix(".calls").write_text(json.dumps(fault.seen))
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text()


def stages(run_dir: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(run_dir.glob("toy.*-*"))}


def outputs(run_dir: Path) -> dict[str, dict[str, bytes]]:
    """Return all files of finished stages."""
    finished = {name: path for name, path in stages(run_dir).items() if (path / manifest.MANIFEST).exists()}
    return {name: toystages.stage_bytes(path) for name, path in finished.items()}


def seen_by_readers(run_dir: Path, golden: dict[str, dict[str, bytes]]) -> list[str]:
    """Return what another process would take for done although it is not what an undisturbed run gives."""
    wrong = []
    for name, stage_dir in stages(run_dir).items():
        for index in commit.committed(stage_dir / commit.UNITS):
            unit_dir = stage_dir / commit.UNITS / f"unit-{index:05d}"
            try:
                files = commit.read_record(unit_dir)["files"]
            except (OSError, ValueError) as error:
                wrong.append(f"{unit_dir.name}: {error!r}")
                continue
            for file in (toystages.NUMBERS, toystages.NOTE):
                good = golden[name][f"{unit_dir.name}/{file}"]
                if (unit_dir / file).read_bytes() != good or files[file]["sha256"] != hash_file(unit_dir / file):
                    wrong.append(f"{unit_dir.name}/{file} is half-written")
        try:
            manifest.load(stage_dir)
            if (stage_dir / manifest.MANIFEST).read_bytes() != golden[name][manifest.MANIFEST]:
                wrong.append(f"{name}: another manifest")
        except IncompleteError:
            pass
        except RagHpcError as error:
            wrong.append(f"{name}: {error}")
    ledger = Ledger(run_dir)
    for number in ledger.submissions():
        for stage in ledger.request(number).stages:
            path = plan_path(run_dir, number, stage)
            if path.exists():
                read_plan(path)
    return wrong


def after_rerun(run_dir: Path, golden: dict[str, dict[str, bytes]]) -> list[str]:
    """Run once more without a fault; return what differs from the golden run."""
    code, text = in_child(run_dir, Fault("none"))
    if code != 0:
        return [f"the run after it: exit {code}: {text[-2000:]}"]
    wrong = [] if outputs(run_dir) == golden else ["output differs"]
    litter = [p.name for path in stages(run_dir).values() for p in (path / commit.UNITS).glob(".*")]
    return wrong + [f"left behind: {name}" for name in litter]


def one_point(folder: Path, golden: dict[str, dict[str, bytes]], fault: Fault) -> list[str]:
    """Return what went wrong with the fault at one point."""
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    if (folder / "killed").exists():
        shutil.copytree(folder / "killed" / "run", run_dir)
    code, text = in_child(run_dir, fault)
    wrong = []
    if fault.kind.startswith("kill"):
        wrong += [] if code == KILLED else [f"was not killed: exit {code}"]
    elif code == 0:  # then the call did not matter: it cleaned up, or made a folder that was there
        if outputs(run_dir) != golden:
            wrong.append(f"exit 0 without the whole output: {text[-2000:]}")
    elif code != 1 or NAMED not in text:
        wrong.append(f"exit {code}, and no error that names the disk: {text[-2000:]}")
    return wrong + seen_by_readers(run_dir, golden) + after_rerun(run_dir, golden)


def killed_run(folder: Path, counted: Fault) -> Fault:
    """Leave a run that was killed with an open draft, and return the calls of the run that follows it."""
    run_dir = folder / "killed" / "run"
    run_dir.parent.mkdir()
    at = max(number for number, call in enumerate(counted.seen) if call.startswith("fsync") and "record.json" in call)
    in_child(run_dir, counted.again("kill", at))
    shutil.copytree(run_dir, folder / "run")
    in_child(folder / "run", Fault())
    return Fault(seen=json.loads((folder / "run.calls").read_text()))


def golden_run(folder: Path) -> tuple[dict[str, dict[str, bytes]], Fault]:
    """Return the output of an undisturbed run and the calls that it made."""
    run_dir = folder / "golden" / "run"
    run_dir.parent.mkdir()
    code, text = in_child(run_dir, Fault())
    if code != 0:
        raise SystemExit(text)
    counted = Fault(seen=json.loads(run_dir.with_suffix(".calls").read_text()))
    return outputs(run_dir), counted


def main(what: str, where: str, numbers: str = "") -> None:
    folder = Path(where)
    make_stage("toy.source", {})  # imports what children would each import again
    np.random.default_rng(0)
    golden, counted = golden_run(folder)
    if what == "kill-again":
        counted = killed_run(folder, counted)
    if what.startswith("kill"):
        faults = [counted.again(kind, at) for at, kind in counted.points()]
    else:
        halves = {"kill": what, "kill-half": f"{what}-half"}
        faults = [
            counted.again(halves[kind], at, getattr(errno, name))
            for name in numbers.split(",")
            for at, kind in counted.points()
            if what == "error" or kind == "kill"
        ]
    wrong: list[dict[str, Any]] = []
    for fault in faults:
        found = one_point(folder, golden, fault)
        if found:
            wrong.append({"kind": fault.kind, "at": fault.at, "call": counted.seen[fault.at], "found": found})
    names = [name.replace(str(folder), "") for name in counted.seen]
    print(json.dumps({"points": len(faults), "calls": names, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
