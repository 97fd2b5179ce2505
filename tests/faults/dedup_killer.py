"""Runs the steps of dedup whose workers or ranks are killed at random; each resumption has another p.

python dedup_killer.py FOLDER ROUNDS prints {STEP: N, ..., "ended": N, "ranks": N, "wrong": [...]} as JSON: how many
workers of each step were killed, and how many were done before their moment came. The first time the moment is one of
a worker's own CPU time, which it reaches on a machine of any speed; later ones are by the clock, so that those who wait
are met too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from dedupchain import STEPS, many_texts

from rag_hpc import worker
from rag_hpc.core import commit, manifest, take
from rag_hpc.core.job import JobEnv
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path, write_plan
from rag_hpc.core.planner import make_plan
from rag_hpc.errors import IncompleteError
from rag_hpc.eval.bench.dedup.given import given_documents, in_units, run_dedup
from rag_hpc.inline import alone
from rag_hpc.launchers.local import find_mpirun, session_folder
from rag_hpc.stages.registry import make_stage

SETTINGS = {"num_groups": 5, "memory_mib": 1}
EARLY = 0.7  # of the CPU time that the work takes: whoever does a share of it gets so far
LONGEST_S = 0.15  # after which a forked worker is killed by the clock
RANKS_S = 2.0  # the same for ranks, which start from nothing
RANK = (
    "import signal, sys; signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1])); "
    "from rag_hpc import worker; sys.exit(worker.main(sys.argv[2:]))"
)
take.POLL_S = 0.01


def planned(run_dir: Path, step: str, inputs: dict[str, Manifest], number: int) -> Plan:
    """Return the plan of another submission, after sweeping what the one before left."""
    stage = make_stage(step, SETTINGS)
    wanted = {name: found for name, found in inputs.items() if name in stage.needs}
    submission = alone(run_dir, step, SETTINGS, number=number)
    plan = make_plan(stage, wanted, submission)
    write_plan(submission.plan_path(step), plan)
    units_dir = run_dir / plan.folder / commit.UNITS
    units_dir.mkdir(parents=True, exist_ok=True)
    commit.sweep(units_dir, submission=number)
    return plan


def fork(run_dir: Path, plan: Plan, index: int, cpu_s: float = 0.0) -> int:
    """Return the process id of a forked worker, which SIGPROF kills after that much CPU time; 0: nothing does."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        os.dup2(os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        os._exit(worker.main([str(plan_path(run_dir, plan.submission, plan.stage)), str(index)]))
    return child


def ranks(run_dir: Path, plan: Plan, num: int, places: dict[str, str], cpu_s: float = 0.0) -> int:
    """Return the process id of an mpirun with `num` ranks, in a process group of its own; SIGPROF as for fork."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    command = [
        *(find_mpirun() or []),
        "-n",
        str(num),
        sys.executable,
        "-c",
        RANK,
        str(cpu_s),
        str(plan_path(run_dir, plan.submission, plan.stage)),
        "rank",
    ]
    with run_dir.with_suffix(".log").open("ab") as log:
        wanted = JobEnv(launch="mpi", world_size=num).to_env()
        return subprocess.Popen(
            command, env={**clean, **places, **wanted}, stdout=log, stderr=log, start_new_session=True
        ).pid


def one_step(
    run_dir: Path, step: str, found: dict[str, Manifest], rng: random.Random, seen: Counter[str], cost_s: float
) -> Manifest:
    """Return the step's manifest after submissions of which all but the last are killed at a random moment.

    Where the first ones were done before their moment, the step is done again with an earlier one.
    """
    accidents, num_hurt = rng.choice([1, 1, 2, 3]), 0
    for number in range(1, 12):
        plan = planned(run_dir, step, found, number)
        by_cpu = num_hurt == 0
        calm = not by_cpu and number > accidents
        num, collective = rng.choice([1, 2, 3, 5]), in_ranks(step, number)
        num = min(num, 3) if collective else 1 if step == "dedup.link" else num
        most = EARLY * cost_s / 2 ** (number - 1) / (1 if collective else num)
        moments = [rng.random() * most if by_cpu else 0.0 for _ in range(num)]
        with session_folder() as places:
            workers = (
                [ranks(run_dir, plan, num, places, min(moments))]
                if collective
                else [fork(run_dir, plan, index, moment) for index, moment in enumerate(moments)]
            )
            if not calm and not by_cpu:
                time.sleep(rng.random() * (RANKS_S if collective else LONGEST_S))
                for child in workers:
                    kill(child)
            ends = [os.waitpid(child, 0)[1] for child in workers]
        seen["ranks"] += collective
        for status in [] if calm else ends:
            hurt = status != 0 if collective else os.WIFSIGNALED(status)
            num_hurt += hurt
            seen[step if hurt else "ended"] += 1
        try:
            built = manifest.build(plan, run_dir / plan.folder)
        except IncompleteError:
            if calm and (run_dir / plan.folder / "failures").exists():
                raise
            continue
        if num_hurt == 0:
            shutil.rmtree(run_dir / plan.folder)
        else:
            manifest.publish(built)
            return built
    raise RuntimeError(f"{step}: not finished in eleven submissions; {run_dir.with_suffix('.log').read_text()[-3000:]}")


def in_ranks(step: str, number: int) -> bool:
    """Return whether a submission of the step is one of ranks: every other one of dedup.link, where MPI is found."""
    return step == "dedup.link" and number % 2 == 1 and bool(find_mpirun())


def cost(run_dir: Path, step: str, found: dict[str, Manifest]) -> tuple[Manifest, float]:
    """Return (manifest, CPU seconds) of a step without accidents: of one forked worker, or of each of two ranks."""
    plan, collective = planned(run_dir, step, found, 1), in_ranks(step, 1)
    with session_folder() as places:
        child = ranks(run_dir, plan, 2, places) if collective else fork(run_dir, plan, 0)
        _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{step}: {run_dir.with_suffix('.log').read_text()[-3000:]}")
    built = manifest.build(plan, run_dir / plan.folder)
    manifest.publish(built)
    return built, (used.ru_utime + used.ru_stime) / (2 if collective else 1)


def kill(child: int) -> None:
    """Kill the process group; a child that ended before stays as it is."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)  # before it had a group of its own


def main(where: str, rounds: str) -> None:
    folder, seen, wrong = Path(where), Counter[str](), []
    units = in_units([row for row in many_texts(400).items() if row[1]], 40)
    golden = run_dedup(folder / "golden", given_documents(folder / "golden", units), SETTINGS)
    run_dir = folder / "calm" / "run"
    calm, costs = {"clean": given_documents(run_dir, units)}, {}
    for step in STEPS:
        calm[step], costs[step] = cost(run_dir, step, calm)
    for seed in range(int(rounds)):
        run_dir, rng = folder / f"{seed:02d}" / "run", random.Random(seed)
        found = {"clean": given_documents(run_dir, units)}
        for step in STEPS:
            found[step] = one_step(run_dir, step, found, rng, seen, costs[step])
            if found[step].output_hash != golden[step].output_hash:
                wrong.append({"seed": seed, "step": step, "log": run_dir.with_suffix(".log").read_text()[-3000:]})
    print({step: round(seconds, 4) for step, seconds in costs.items()}, file=sys.stderr)
    print(json.dumps({"rounds": int(rounds), **seen, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
