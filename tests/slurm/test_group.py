"""A resident group on a real Slurm of four nodes: under load a rank is killed, and comes back by requeue."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import servedrun
import stagerun

from rag_hpc.algo.types import Array
from rag_hpc.cli import main
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.ledger import Ledger
from rag_hpc.launchers import group, resident
from rag_hpc.search.answer import as_the_run
from rag_hpc.search.searcher import Searcher, knowledge
from rag_hpc.serve.client import Client, Reply, Unanswered
from rag_hpc.serve.places import FOLDER, Place, groups_of
from rag_hpc.slurm import devcluster as dc

pytestmark = pytest.mark.timeout(300)
TEXTS = ["Which argument of a deque drops older items?", "sha256 sha256 digest block"]
DEADLINE_MS = 2000
Sh = Callable[..., str]


@pytest.fixture
def run(shared_tmp: Path) -> tuple[Ledger, stagerun.Chain]:
    """A run that all nodes see, and what it was made from."""
    chain = stagerun.chain_or_skip(stagerun.searched_chain)
    return servedrun.make_copied_run(chain, shared_tmp), chain


class Load:
    """Guests that ask one query after another, and what they were told."""

    def __init__(self, place: Place, vectors_QD: Array, num_guests: int = 2) -> None:
        self._place, self._vectors_QD, self._over = place, vectors_QD, threading.Event()
        self.told: list[tuple[float, Reply | Unanswered]] = []  # seconds that it took, and the answer
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_guests)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with contextlib.closing(Client(self._place)) as client:
            while not self._over.is_set():
                begun = time.monotonic()
                try:
                    reply: Reply | Unanswered = client.search(TEXTS, self._vectors_QD, DEADLINE_MS)
                except Unanswered as error:
                    reply = error
                self.told.append((time.monotonic() - begun, reply))
                time.sleep(0.02)


def wait_until(place: Place, state: str, timeout_s: float = 90) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while (found := group.state_of(place))["state"] != state:
        assert time.monotonic() < end, f"{found}\n{resident.said(place)}"
        time.sleep(0.1)
    return found


def test_a_killed_rank_never_hangs_the_group_and_comes_back_by_requeue(
    run: tuple[Ledger, stagerun.Chain], slurm_env: dc.DevCluster, sh: Sh, tmp_path: Path
) -> None:
    (ledger, chain), conf = run, slurm_env.slurm_conf
    where = [f"run={ledger.run_dir}", "cluster=devcluster", f"cluster.slurm_conf={conf}"]
    assert main(["serve", "up", *where, "workers=4", "cluster.cpus_per_task=2", "cluster.interface=eth0"]) == 0
    (place,) = groups_of(ledger.run_dir)
    up = wait_until(place, "up")
    assert up["coverage"] == "4/4" and {row["host"] for row in up["ranks"]} == set(slurm_env.nodes)
    assert re.fullmatch(r"10\.77\.0\.\d:\d+", place.door().address)

    parts = chain.out["lexical"], chain.out["encode"], None
    settings = as_the_run(chain.out, ledger.request().settings["retrieve.search"])[0]
    alone = Searcher(*parts, settings, SerialComm(), tmp_path, knowledge(chain.out))
    vectors_QD = np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)
    expected = alone.search(TEXTS, vectors_QD).hits

    def is_whole(reply: object) -> bool:
        """Return whether all shards answered, with the bits of a lone searcher."""
        if not isinstance(reply, Reply) or reply.coverage != "4/4":
            return False
        pairs = [(reply.found.hits[method][at], hits[at]) for method, hits in expected.items() for at in (0, 1)]
        assert all(found.tobytes() == wanted.tobytes() for found, wanted in pairs)
        return True

    with Load(place, vectors_QD) as load:
        time.sleep(1)
        victim = up["ranks"][2]["pid"]
        keeper = int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{victim}/status").read_text())[1])  # type: ignore[index]
        for pid in (keeper, victim):
            os.kill(pid, signal.SIGKILL)
        wait_until(place, "partial")
        again = wait_until(place, "up")
        time.sleep(1)
    assert again["ranks"][2]["pid"] != victim and is_whole(load.told[0][1]) and is_whole(load.told[-1][1])
    seconds = np.array([took for took, _ in load.told])
    assert len(load.told) > 100 and np.quantile(seconds, 0.99) < DEADLINE_MS / 1000
    assert seconds.max() < DEADLINE_MS / 1000 + 0.5  # none hung
    partial = {reply.coverage for _, reply in load.told if isinstance(reply, Reply) and not is_whole(reply)}
    assert partial == {"3/4"} and not [reply for _, reply in load.told if isinstance(reply, Unanswered)]
    assert "Restarts=1" in sh("scontrol", "show", "job", f"{again['job']}_2")
    print(f"{len(load.told)} queries, p99 {np.quantile(seconds, 0.99):.3f} s, longest {seconds.max():.3f} s")

    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / FOLDER).exists()
    assert not [row for row in again["ranks"] if Path(f"/proc/{row['pid']}/fd/0").exists()]  # which zombies lack
    assert again["job"] not in sh("squeue", "-h", "-o", "%F").split()
