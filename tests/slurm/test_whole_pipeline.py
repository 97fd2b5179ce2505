"""The whole pipeline on a real Slurm, undisturbed and under three faults, against the baseline on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workers import kill_workers

from rag_hpc.core.commit import UNITS, committed
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster.network import node_pids
from rag_hpc.slurm.devcluster.processes import wait_for

pytestmark = pytest.mark.timeout(1800)  # what waits in vain says so before
SMALL = (
    "corpus=files",
    "corpus.pages_per_unit=8",
    "stage.encode.tokens_per_unit=200",
    "stage.retrieve.queries_per_unit=8",
    "stage.vectors.num_lists=4",
    "stage.retrieve.depth=20",
    "backup_after_s=10",
)
WORDS = [
    "queue",
    "lock",
    "thread",
    "buffer",
    "parser",
    "module",
    "iterator",
    "decorator",
    "socket",
    "archive",
    "digest",
    "token",
    "frame",
    "signal",
    "pipe",
    "codec",
    "locale",
    "matrix",
    "vector",
    "cursor",
]


def write_corpus(folder: Path) -> None:
    """Write 64 texts with titles of their own, two of them copies."""
    folder.mkdir()
    for number in range(64):
        first, second = WORDS[number % len(WORDS)], WORDS[(number * 7 + 3) % len(WORDS)]
        body = "\n\n".join(
            f"The {first} number {number} holds a {second} in part {part}. It is {part * number} long."
            for part in range(1 + number % 4)
        )
        (folder / f"d{number:02d}.md").write_text(f"# About {first} {second} {number}\n\n{body}\n")
    (folder / "copy.md").write_bytes((folder / "d05.md").read_bytes())


class Site:
    """A folder that the nodes see, with the corpus, and the command line run in it."""

    def __init__(self, folder: Path, slurm_conf: Path) -> None:
        self.folder, self._conf = folder, slurm_conf
        write_corpus(folder / "texts")

    def cli(self, *args: str, ok: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "rag_hpc.cli", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode in ok, f"{args}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, name: str, workers: int) -> None:
        self.cli(
            "run",
            f"run={name}",
            f"corpus.path={self.folder / 'texts'}",
            f"workers={workers}",
            *SMALL,
            "cluster=devcluster",
            f"cluster.slurm_conf={self._conf}",
        )

    def run_dir(self, name: str) -> Path:
        return self.folder / "results/runs" / name

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("status", f"run={name}", "--json", ok=(0, 1, 3)))
        return found

    def wait(self, name: str, until: Callable[[dict[str, Any]], bool], timeout_s: float = 900) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = self.status(name)
            if until(found):
                return found
            time.sleep(0.5)
        raise AssertionError(f"{self.status(name)}\n{self.told(name)}")

    def wait_for_units(self, name: str, stage: str, count: int) -> None:
        end = time.monotonic() + 600
        while time.monotonic() < end:
            if any(len(committed(folder / UNITS)) >= count for folder in self.run_dir(name).glob(f"{stage}-*")):
                return
            time.sleep(0.02)
        raise AssertionError(self.told(name))

    def told(self, name: str) -> str:
        """Return all that tells why the run does not go on: its own words, the nodes' states, the controller's log."""
        nodes = subprocess.run(
            ["sinfo", "-N", "-o", "%N %T %E"],
            env={**os.environ, "SLURM_CONF": str(self._conf)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        log = self._conf.parents[1] / "log/slurmctld.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-80:])
        why = self.cli("why", f"run={name}", ok=(0, 1, 3))
        return f"{why}\n{nodes.stdout}{nodes.stderr}\n{tail}"

    def hashes(self, name: str) -> dict[str, str]:
        paths = self.run_dir(name).glob("*/manifest.json")
        return {p.parent.name: json.loads(p.read_bytes())["output_hash"] for p in sorted(paths)}

    def records(self, name: str, stage: str) -> list[dict[str, Any]]:
        paths = self.run_dir(name).glob(f"{stage}-*/units/unit-*/record.json")
        return [json.loads(path.read_bytes()) for path in paths]


def finished(found: dict[str, Any]) -> bool:
    return bool(found["state"] == "finished")


def at_rest(found: dict[str, Any]) -> bool:
    """Finished, or nothing left in the queue."""
    return finished(found) or not found["jobs"]


@pytest.fixture(scope="module")
def site(devcluster: dc.DevCluster) -> Site:
    """The corpus, with a finished baseline here and a finished run on the four nodes."""
    made = Site(devcluster.mkshared("whole"), devcluster.slurm_conf)
    made.cli("run", "run=base", "pipeline=baseline", f"corpus.path={made.folder / 'texts'}", *SMALL)
    begun = children_s()
    made.submit("golden", 4)
    made.submit_s = children_s() - begun  # type: ignore[attr-defined]
    made.wait("golden", finished)
    return made


def children_s() -> float:
    """Return the CPU seconds of the commands that this process ran: other work on the machine adds no more."""
    return os.times().children_user + os.times().children_system


def test_four_nodes_answer_as_the_baseline(site: Site) -> None:
    shown = site.cli("verify", "base", "golden")
    assert "differs" not in shown


def test_the_whole_chain_is_submitted_in_seconds(site: Site) -> None:
    assert site.submit_s < 5 * 3  # type: ignore[attr-defined]  # 5 s on a machine that does nothing else


@pytest.mark.parametrize(
    ("stage", "launch"), [("encode", "torchrun"), ("vectors.build", "mpi"), ("retrieve.search", "mpi")]
)
def test_four_ranks_ran_on_four_hosts(site: Site, stage: str, launch: str) -> None:
    records = site.records("golden", stage)
    assert {(r["launch"], r["p"]) for r in records} == {(launch, 4)}
    log = (site.run_dir("golden") / "submissions/0001" / f"{stage}.log").read_text()
    ranks = set(re.findall(rf"@(n\d) INFO {re.escape(stage)}: worker \d, rank (\d) of 4", log))
    assert ({host for host, _ in ranks}, {rank for _, rank in ranks}) == ({"n1", "n2", "n3", "n4"}, set("0123"))


def test_few_entries_are_left(site: Site) -> None:
    run_dir = site.run_dir("golden")
    for folder in run_dir.glob("*-*/units"):
        units = len(committed(folder))
        assert sum(1 for _ in folder.parent.rglob("*")) <= 4 * units + 20, folder
        assert all(len(list(unit.iterdir())) <= 3 for unit in folder.glob("unit-*"))
    assert sum(1 for _ in (run_dir / "submissions").rglob("*")) <= 20 * len(list(run_dir.glob("*/manifest.json")))


def encode_rank(node: str, run: Path) -> int | None:
    """Return the process of the run's encode rank on a node, None where it has not begun."""
    for pid in node_pids(node):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if (
                b"rag_hpc.worker" in words
                and b"torch.distributed.run" not in words
                and str(run).encode() in b" ".join(words)
            ):
                return pid
    return None


def test_a_late_node_joins_and_a_lost_one_costs_the_bytes_nothing(site: Site, faulty: dc.DevCluster) -> None:
    """Of a finished run all but encode is kept; n4 begins when others are half done, n2 dies, three nodes go on."""
    run = site.run_dir("late")
    shutil.copytree(site.run_dir("golden"), run)
    [whole] = run.glob("encode-*")
    shutil.rmtree(whole)
    site.cli("retry", "run=late", "workers=4")
    ranks: dict[str, int] = {}
    end = time.monotonic() + 120
    while len(ranks) < 4 and time.monotonic() < end:
        for node in {"n1", "n2", "n3", "n4"} - ranks.keys():
            if pid := encode_rank(node, run):
                os.kill(pid, signal.SIGSTOP)
                ranks[node] = pid
        time.sleep(0.02)
    assert len(ranks) == 4, site.told("late")
    os.kill(ranks["n1"], signal.SIGCONT)
    site.wait_for_units("late", "encode", 2)
    os.kill(ranks["n1"], signal.SIGSTOP)
    [folder] = run.glob("encode-*")
    assert len(committed(folder / UNITS)) < len(site.records("golden", "encode"))
    os.kill(ranks["n4"], signal.SIGCONT)  # late: others have been at work
    site.wait_for_units("late", "encode", len(committed(folder / UNITS)) + 1)
    os.kill(ranks["n4"], signal.SIGSTOP)
    done = committed(folder / UNITS)
    assert len(done) < len(site.records("golden", "encode"))
    hosts = {record["host"] for record in site.records("late", "encode")}
    assert {"n1", "n4"} <= hosts
    faulty.kill_slurmd("n2", steps=True)
    site.cli("cancel", "run=late")
    site.wait("late", at_rest)
    faulty.repair()
    site.cli("retry", "run=late", "workers=3")
    site.wait("late", finished)
    assert done < committed(folder / UNITS)
    assert site.hashes("late") == site.hashes("golden")


def test_three_faults_and_other_workers_change_no_byte(
    site: Site, slurm_env: dc.DevCluster, faulty: dc.DevCluster
) -> None:
    site.submit("hurt", 4)
    site.wait_for_units("hurt", "clean", 2)
    kill_workers(site.run_dir("hurt"))  # the gate makes up for it
    site.wait_for_units("hurt", "encode", 1)
    faulty.kill_slurmd("n2", steps=True)  # a node dies under torchrun; Slurm waits for it, we go on without
    wait_for(
        lambda: "down" in {row["name"]: row["state"] for row in faulty.node_states()}["n2"],
        "n2 to be down",
        timeout_s=180,
        step_s=1.0,
    )
    site.cli("retry", "run=hurt", "workers=3")
    site.wait_for_units("hurt", "retrieve.queries", 1)
    site.cli("cancel", "run=hurt")  # scancel of all that is left
    site.wait("hurt", at_rest)
    faulty.repair()
    site.cli("retry", "run=hurt", "workers=2")
    site.wait("hurt", finished)
    assert site.hashes("hurt") == site.hashes("golden")
    assert "differs" not in site.cli("verify", "base", "hurt")
