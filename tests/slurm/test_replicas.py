"""Replicas on a real Slurm: each job's walltime passes under load, a successor takes over, and no request fails."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chatserver import fake_vllm, model_like

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import Roll, jobs_of, places_of, slot_of, token_of
from rag_hpc.slurm import devcluster as dc

pytestmark = pytest.mark.timeout(300)
SUPPORT = Path(__file__).parents[1] / "support"
ASKED = {"model": "model", "messages": [{"role": "user", "content": "1"}]}
WALLTIME_S, LIMIT_S = 60, 150.0
Sh = Callable[..., str]


class Load:
    """Guests that ask one request after another: of a replica that is ready, and of the next where one refuses."""

    def __init__(self, place: Place, num_guests: int = 2) -> None:
        self._place, self._over = place, threading.Event()
        self.answered: list[str] = []  # by which address
        self.failed: list[str] = []
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
        roll, headers = Roll(self._place), {"Authorization": f"Bearer {token_of(self._place)}"}
        with httpx.Client(timeout=20, headers=headers) as client:
            while not self._over.is_set():
                said = ""
                for one in (one for one in roll.live() if one.state == "ready"):
                    try:
                        reply = client.post(f"http://{one.address}/v1/chat/completions", json=ASKED)
                    except httpx.HTTPError as error:
                        said = repr(error)
                        continue
                    if reply.status_code == 200 and reply.json()["choices"]:
                        self.answered.append(one.address)
                        break
                    said = f"{reply.status_code} {reply.text}"
                else:
                    self.failed.append(said or "no replica is ready")
                time.sleep(0.05)


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
            assert time.monotonic() < end, said(place)
            time.sleep(0.2)
        first = {one.name: one for one in roll.live()}
        assert len({one.job for one in first.values()}) == 2 and all(one.ends_unix for one in first.values())
        twice_s: dict[str, float] = {}  # by successor: how long both held their nodes
        with Load(place) as load:
            while set(first) & {one.name for one in roll.live()} or len(roll.live()) < 2:
                assert time.monotonic() < end, said(place)
                live = {one.name: one for one in roll.live()}
                for one in live.values():
                    slot, generation = slot_of(one.name)
                    if generation == 1 and str(slot) in live:
                        twice_s[one.name] = time.time() - one.begun_unix
                time.sleep(0.2)
            time.sleep(1)
        assert not load.failed and len(set(load.answered)) >= 4 and len(load.answered) > 50
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


def said(place: Place) -> str:
    logs = sorted(place.folder.glob("*.log"))
    return f"{jobs_of(place)}\n" + "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in logs)
