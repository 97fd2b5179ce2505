"""Bench `checks`: what it costs to look whose a run's files are, and whether they are what was promised.

A whole run of the demo's corpus with the checks against one without, in turns; and the look at a run's owner that each
command begins with.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rag_hpc.core.trust import check_run
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import take_turns
from rag_hpc.eval.bench.registry import known
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.bench.trust import unchecked

DEFAULTS = {"pages": "40", "workers": "2", "rounds": "7"}
COST_BAR, LOOK_BAR_MS = 1.03, 5.0
LOOKS = 200


def run(options: dict[str, str]) -> list[Row]:
    """Return the row of whole runs and that of the look at the owner. Options: pages, workers, rounds."""
    given = known(options, DEFAULTS)
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as name:
        folder = Path(name)
        (folder / "unchecked").mkdir()
        shutil.copy(unchecked.__file__, folder / "unchecked" / "sitecustomize.py")
        others = os.environ.get("PYTHONPATH", "")
        without = {"PYTHONPATH": os.pathsep.join(filter(None, [f"{folder}/unchecked", others]))}
        _whole_run(folder, given, {})()  # compiles kernels, fills the cache of files
        timed = take_turns(
            {"ours": _whole_run(folder, given, {}), "unchecked": _whole_run(folder, given, without)},
            int(given["rounds"]),
        )
        looked = _look_ms(folder / "results/runs/ours")
    ratio, interval = timed.ratio("unchecked")
    return [
        Row(
            name="a whole run, its files checked",
            ours=timed.median("ours"),
            unit="CPU seconds",
            peers={"unchecked": timed.median("unchecked")},
            ratio=ratio,
            interval=interval,
            bar=COST_BAR,
            less_is_better=True,
            contention=timed.contention,
            note=f"{given['pages']} pages, {given['workers']} workers, {given['rounds']} pairs",
        ),
        Row(
            name="whose a run's files are, a command",
            ours=looked,
            unit="ms",
            bar=LOOK_BAR_MS,
            less_is_better=True,
            contention=timed.contention,
            note=f"median of {LOOKS}",
        ),
    ]


def _whole_run(folder: Path, given: dict[str, str], env: dict[str, str]) -> Callable[[], float]:
    """Return a function that runs the pipeline anew and returns the CPU seconds of all its processes."""

    def timed() -> float:
        runs = folder / "results/runs"
        shutil.rmtree(runs, ignore_errors=True)
        words = ["run", "run=ours", f"workers={given['workers']}", f"corpus.max_pages={given['pages']}"]
        begun = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "rag_hpc.cli", *words],
            cwd=folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        ended = os.times()
        if done.returncode:
            raise InputError(f"bench checks: the run ended with {done.returncode}: {done.stderr[-2000:]}")
        return ended.children_user + ended.children_system - begun.children_user - begun.children_system

    return timed


def _look_ms(run_dir: Path) -> float:
    """Return the median milliseconds of one look."""
    taken = []
    for _ in range(LOOKS):
        begun = time.perf_counter()
        check_run(run_dir)
        taken.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(taken)
