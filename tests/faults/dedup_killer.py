"""Runs the steps of dedup whose workers or ranks are killed at random; each resumption has another p.

python dedup_killer.py FOLDER ROUNDS prints {"killed": N, "ended": N, "ranks": N, "wrong": [...]} as JSON: each round
kills each step once or more, `ended` counts workers that were done before their moment came.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from dedupchain import STEPS, many_texts

from rag_hpc import worker
from rag_hpc.core import commit, manifest, take
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path, write_plan
from rag_hpc.core.planner import Submission, make_plan
from rag_hpc.errors import IncompleteError
from rag_hpc.eval.bench.stagedoor import given_documents, in_units, run_dedup
from rag_hpc.launchers.local import find_mpirun
from rag_hpc.stages.registry import make_stage

SETTINGS = {"num_groups": 5, "memory_mib": 1}
LONGEST_S = 0.15  # after which a forked worker may be killed
RANKS_S = 2.0  # the same for ranks, which start from nothing
take.POLL_S = 0.01


def planned(run_dir: Path, step: str, inputs: dict[str, Manifest], number: int) -> Plan:
    """Return the plan of another submission, after sweeping what the one before left."""
    stage = make_stage(step, SETTINGS)
    wanted = {name: found for name, found in inputs.items() if name in stage.needs}
    plan = make_plan(stage, SETTINGS, wanted, run_dir, Submission(run="run", number=number, workers=1))
    write_plan(plan_path(run_dir, number, step), plan)
    units_dir = run_dir / plan.folder / commit.UNITS
    units_dir.mkdir(parents=True, exist_ok=True)
    commit.sweep(units_dir, submission=number)
    return plan


def fork(run_dir: Path, plan: Plan, index: int) -> int:
    """Return the process id of a forked worker."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        os._exit(worker.main([str(plan_path(run_dir, plan.submission, plan.stage)), str(index)]))
    return child


def ranks(run_dir: Path, plan: Plan, num: int) -> int:
    """Return the process id of an mpirun with `num` ranks, in a process group of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    command = [*(find_mpirun() or []), "-n", str(num), sys.executable, "-m", "rag_hpc.worker",
               str(plan_path(run_dir, plan.submission, plan.stage)), "rank"]
    with run_dir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env={**clean, "RAG_HPC_LAUNCH": "mpi", "RAG_HPC_WORLD_SIZE": str(num)},
                                stdout=log, stderr=log, start_new_session=True).pid


def one_step(run_dir: Path, step: str, found: dict[str, Manifest], rng: random.Random, seen: Counter[str]) -> Manifest:
    """Return the step's manifest after submissions of which all but the last are killed at a random moment."""
    accidents = rng.choice([1, 1, 2, 3])
    for number in range(1, 10):
        plan = planned(run_dir, step, found, number)
        calm = number > accidents
        num, collective = rng.choice([1, 2, 3, 5]), step == "dedup.link" and number % 2 and find_mpirun()
        workers = [ranks(run_dir, plan, min(num, 3))] if collective else [
            fork(run_dir, plan, index) for index in range(1 if step == "dedup.link" else num)]
        seen["ranks"] += bool(collective)
        if not calm:
            time.sleep(rng.random() * (RANKS_S if collective else LONGEST_S))
            for child in workers:
                seen[end(child)] += 1
        for child in workers:
            os.waitpid(child, 0)
        try:
            built = manifest.build(plan, run_dir / plan.folder)
        except IncompleteError:
            if calm and not (run_dir / plan.folder / "failures").exists():
                continue
            if calm:
                raise
        else:
            manifest.publish(built)
            return built
    raise RuntimeError(f"{step}: not finished in ten submissions; {run_dir.with_suffix('.log').read_text()[-3000:]}")


def end(child: int) -> str:
    """Kill the process group, and say whether it was still at work."""
    status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)  # before it had a group of its own
    return "killed" if status is None else "ended"


def main(where: str, rounds: str) -> None:
    folder, seen, wrong = Path(where), Counter[str](), []
    units = in_units([row for row in many_texts(400).items() if row[1]], 40)
    golden = run_dedup(folder / "golden", given_documents(folder / "golden", units), SETTINGS)
    for seed in range(int(rounds)):
        run_dir, rng = folder / f"{seed:02d}" / "run", random.Random(seed)
        found = {"clean": given_documents(run_dir, units)}
        for step in STEPS:
            found[step] = one_step(run_dir, step, found, rng, seen)
            if found[step].output_hash != golden[step].output_hash:
                wrong.append({"seed": seed, "step": step, "log": run_dir.with_suffix(".log").read_text()[-3000:]})
    print(json.dumps({"rounds": int(rounds), **seen, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
