"""`rag-hpc run` killed -9 at every call of the scheduler: the same command goes on, and the queue holds nothing of it.

RAG_HPC_KILLS=30 kills that often or more, at every step; a few steps are the default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster.processes import wait_for

KILLS = int(os.environ.get("RAG_HPC_KILLS", "3"))
pytestmark = pytest.mark.timeout(300 + 30 * KILLS)
# `during`: the command is gone when the real one begins, which then does its work unseen. sbatch is a site's wrapper
# too, whose banner speaks of a job that is somebody else's
SHIM = """#!/bin/sh
here=$(dirname "$0"); name=$(basename "$0"); export PATH="$REAL_PATH"
echo "$name" >> "$here/calls"
[ "$name" = sbatch ] && echo "Welcome! This is job 1 of 7 today."
if [ "$(wc -l < "$here/calls")" = "$(cat "$here/at")" ]; then
    case $(cat "$here/when") in
        before) kill -9 $PPID; exit 1;;
        during) kill -9 $PPID;;
        after) "$name" "$@" > /dev/null 2>&1; kill -9 $PPID; exit 1;;
    esac
fi
exec "$name" "$@"
"""
Site = tuple[Path, Path]


@pytest.fixture
def site(slurm_env: dc.DevCluster, shared_tmp: Path) -> Iterator[Site]:
    """Yield a folder with four texts, and that of the stand-ins; a job that is not ours is always in the queue."""
    texts, shims = shared_tmp / "texts", shared_tmp / "shims"
    texts.mkdir()
    shims.mkdir()
    for number in range(4):
        (texts / f"{number}.txt").write_text(f"Title {number}\n\nA text of few words about the number {number}.\n")
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sinfo"):
        (shims / name).write_text(SHIM)
        (shims / name).chmod(0o755)
    stranger = ["sbatch", "--parsable", "--hold", "-J", "rh-killed-crawl", "-o", "/dev/null", "--wrap", "true"]
    subprocess.run(stranger, check=True, capture_output=True, timeout=60)
    yield shared_tmp, shims
    assert in_queue() == ["rh-killed-crawl"]


def in_queue() -> list[str]:
    done = subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def rag_hpc(site: Site, *words: str, at: int = 0, when: str = "") -> int:
    """Run a command that is killed at its scheduler call number `at`; return its exit code."""
    folder, shims = site
    for name, text in (("at", str(at)), ("when", when), ("calls", "")):
        (shims / name).write_text(text)
    env = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "REAL_PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "rag_hpc.cli", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    if not at and done.returncode:
        print(done.stdout, done.stderr)
    return done.returncode


ALL = KILLS >= 30
STAGES, SBATCHES = ("crawl,clean", 4) if ALL else ("crawl", 2)


def submit(site: Site, conf: Path, name: str, at: int = 0, when: str = "") -> int:
    settings = ("corpus=files", f"corpus.path={site[0] / 'texts'}", "corpus.pages_per_unit=2", "workers=2")
    where = (f"pipeline.stages=[{STAGES}]", "cluster=devcluster", f"cluster.slurm_conf={conf}")
    return rag_hpc(site, "run", f"run={name}", *settings, *where, at=at, when=when)


def hashes(site: Site, name: str) -> dict[str, str]:
    paths = (site[0] / "results" / "runs" / name).glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_bytes())["output_hash"] for path in paths}


def test_killed_submits_go_on_and_leave_nothing_in_the_queue(site: Site, slurm_env: dc.DevCluster) -> None:
    folder, shims = site
    conf = slurm_env.slurm_conf
    assert submit(site, conf, "golden") == 0
    calls = (shims / "calls").read_text().split()
    assert calls == ["sinfo", "sinfo", "squeue", "scontrol", *["sbatch"] * SBATCHES, "squeue", "scontrol"]
    changing = [at for at, name in enumerate(calls, 1) if name == "sbatch" or at == len(calls)]
    points = [(at, when) for at in range(1, len(calls) + 1) for when in ("before", "after")]
    points += [(at, "during") for at in changing]
    points = points if ALL else [(5, "during"), (6, "after"), (8, "before")][:KILLS]
    killed = 0
    for at, when in points:
        assert submit(site, conf, f"{at}-{when}", at, when) == -9
        killed += 1
        if (at, when) == (5, "during"):  # killed again while it clears up
            assert submit(site, conf, f"{at}-{when}", 4, "before") == -9
            killed += 1
        assert submit(site, conf, f"{at}-{when}") == 0
    for at, when in [point for point in points if point[0] in changing] if ALL else points[:1]:
        name = f"{at}-{when}-cancelled"
        assert submit(site, conf, name, at, when) == -9
        killed += 1
        time.sleep(0.2 * (when == "during"))  # for the call that outlives its command
        begun = (folder / "results/runs" / name / "submissions").exists()
        assert rag_hpc(site, "cancel", f"run={name}") == (0 if begun else 1)
        assert not [*(folder / "results/runs" / name).rglob("*.pkl")]
    wait_for(lambda: in_queue() == ["rh-killed-crawl"], "the queue to be empty", timeout_s=100 + 10 * KILLS, step_s=0.5)
    golden = hashes(site, "golden")
    assert len(golden) == SBATCHES / 2
    for at, when in points:
        assert hashes(site, f"{at}-{when}") == golden, (at, when)
        assert not [*(folder / "results/runs" / f"{at}-{when}").rglob("*.pkl")]
    print({"kills": killed, "steps": len(points), "calls": calls})
