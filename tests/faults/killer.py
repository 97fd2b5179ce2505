"""Runs toy stages whose workers are killed, or frozen and thawed later, at random; each resumption has another p.

python killer.py FOLDER ROUNDS prints {"rounds": N, "killed": N, "thawed": N, "submissions": N, "wrong": [...]} as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import toystages
from driver import outputs

from rag_hpc import worker
from rag_hpc.core import take
from rag_hpc.core.plan import Plan, plan_path
from rag_hpc.launchers.advance import advance
from rag_hpc.stages.registry import make_stage

take.POLL_S = 0.01


def start(run_dir: Path, plan: Plan, index: int) -> int:
    """Return the process id of a forked worker."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        random.seed()
        os._exit(worker.main([str(plan_path(run_dir, plan.submission, plan.stage)), str(index)]))
    return child


def one_round(run_dir: Path, rng: random.Random, seen: Counter[str]) -> None:
    """Run until everything is finished, with fewer and fewer accidents."""
    ledger, frozen = toystages.new_ledger(run_dir), list[int]()
    for calm in (0.2, 0.4, 0.6, 0.8, 1.0):
        p = rng.choice([1, 2, 3, 5, 7])
        submission = ledger.submit(toystages.toy_request("run", workers=p, num_units=11, max_ms=12, backup_after_s=0.1))
        seen["submissions"] += 1
        while (plan := advance(submission).open_plan) is not None:
            workers = [start(run_dir, plan, index) for index in range(p)]
            while frozen:  # orphans of the submission before come back
                os.kill(frozen.pop(), signal.SIGCONT)
                seen["thawed"] += 1
            unhurt = hurt(workers, frozen, calm, rng, seen)
            for child in unhurt:
                os.waitpid(child, 0)
            if len(unhurt) < p and rng.random() < 0.7:
                break  # go on with another submission, though this one may not be done
        else:
            break
    for child in frozen:
        os.kill(child, signal.SIGKILL)


def hurt(workers: list[int], frozen: list[int], calm: float, rng: random.Random, seen: Counter[str]) -> list[int]:
    """Kill or freeze some of the workers at random moments; return the others."""
    unhurt = list(workers)
    for child in workers:
        if rng.random() < calm:
            continue
        time.sleep(rng.random() * 0.04)
        freeze = rng.random() < 0.3
        os.kill(child, signal.SIGSTOP if freeze else signal.SIGKILL)
        seen["frozen" if freeze else "killed"] += 1
        unhurt.remove(child)
        if freeze:
            frozen.append(child)
    return unhurt


def main(where: str, rounds: str) -> None:
    folder, seen, wrong = Path(where), Counter[str](), []
    make_stage("toy.source", {})
    golden_dir = folder / "golden"
    golden = toystages.new_ledger(golden_dir)
    request = toystages.toy_request("run", workers=1, num_units=11, max_ms=12)
    toystages.run_inline(golden.submit(request))
    for seed in range(int(rounds)):
        run_dir = folder / f"{seed:02d}" / "run"
        one_round(run_dir, random.Random(seed), seen)
        if outputs(run_dir) != outputs(golden_dir):
            wrong.append({"seed": seed, "log": run_dir.with_suffix(".log").read_text()[-3000:]})
        failed = list(run_dir.glob("toy.*/failures/*.json"))
        if failed:
            wrong.append({"seed": seed, "failure": json.loads(failed[0].read_text())})
    print(json.dumps({"rounds": int(rounds), **seen, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
