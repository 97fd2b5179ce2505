"""Replicas on a real Slurm: each job's walltime passes under load, a successor takes over, and no request fails."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import replicaload
from chatserver import fake_vllm, model_like

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.serve.replicas import Roll, places_of, slot_of
from rag_hpc.slurm import devcluster as dc

SOAK = "RAG_HPC_SOAK"  # read once: no test sees RAG_HPC_* variables
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        SOAK not in os.environ, reason=f"a soak, for a machine that does nothing else: make test-fleet ({SOAK}=1)"
    ),
]
SUPPORT = Path(__file__).parents[1] / "support"
WALLTIME_S, LIMIT_S = 60, 150.0
Sh = Callable[..., str]


def test_walltimes_pass_under_load_and_no_request_fails(shared_tmp: Path, slurm_env: dc.DevCluster, sh: Sh) -> None:
    ledger = Ledger(shared_tmp / "runs" / "r")
    ledger.create({})
    ledger.submit(Request(run="r", number=0, stages=[], settings={}, workers=1, cluster={"root": None}))
    program = shutil.copy(SUPPORT / "chatserver.py", shared_tmp)
    python = fake_vllm(shared_tmp, program=Path(program), delay_s=0.3, start_s=2)
    where = [f"run={ledger.run_dir}", "cluster=devcluster", f"cluster.slurm_conf={slurm_env.slurm_conf}"]
    site = ["cluster.interface=eth0", "cluster.cpus_per_task=1", f"cluster.time_min={WALLTIME_S // 60}"]
    model = model_like(shared_tmp / "model")
    generator = ["generator=vllm", f"generator.model={model}", f"generator.vllm.python={python}", "workers=2"]
    watch = ["serve.replica.drain_s=5", "serve.replica.canary_s=1"]
    assert main(["serve", "replicas", *where, *site, *generator, *watch]) == 0
    try:
        (place,) = places_of(ledger.run_dir)
        roll, end = Roll(place), time.monotonic() + LIMIT_S
        while sum(one.state == "ready" for one in roll.live()) < 2:
            assert time.monotonic() < end, replicaload.said(place)
            time.sleep(0.2)
        first = {one.name: one for one in roll.live()}
        assert len({one.job for one in first.values()}) == 2 and all(one.ends_unix for one in first.values())
        twice_s: dict[str, float] = {}  # by successor: how long both held their nodes
        with replicaload.Load(place) as load:
            while set(first) & {one.name for one in roll.live()} or len(roll.live()) < 2:
                assert time.monotonic() < end, replicaload.said(place)
                live = {one.name: one for one in roll.live()}
                for one in live.values():
                    slot, generation = slot_of(one.name)
                    if generation == 1 and str(slot) in live:
                        twice_s[one.name] = time.time() - one.begun_unix
                time.sleep(0.2)
            time.sleep(1)
        # guests ask the first that is ready: slot 0's, and then its successor
        assert not load.failed and len(set(load.answered)) >= 2 and len(load.answered) > 50
        later = {one.name: one for one in roll.live()}
        assert set(later) == {"0-1", "1-1"} and not {one.job for one in later.values()} & {
            one.job for one in first.values()
        }
        print(f"{len(load.answered)} requests answered, both held for {twice_s} s")
        assert max(twice_s.values()) < WALLTIME_S / 2
    finally:
        assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / ".replicas").exists()
    assert not {one.job for one in later.values()} & set(sh("squeue", "-h", "-o", "%F").split())
