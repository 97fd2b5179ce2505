"""A judge on a real Slurm whose workers are killed on the way: no sample is lost or judged twice."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fakeragas
import pytest
import servedrun
import stagerun
from chatserver import ChatServer
from workers import kill_workers

from rag_hpc import inline
from rag_hpc.core.commit import read_record
from rag_hpc.core.manifest import load
from rag_hpc.launchers import chain
from rag_hpc.schema import to_plain
from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.cluster import ClusterConfig, Launcher
from rag_hpc.slurm.devcluster.config import CONTROLLER
from rag_hpc.slurm.devcluster.processes import wait_for
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.judged import read_scores

pytestmark = pytest.mark.timeout(300)
TESTS = Path(__file__).parents[1]
WORKERS, NOTED = 2, 3


@pytest.fixture
def server(slurm_env: dc.DevCluster) -> Iterator[ChatServer]:
    """A scripted judge on the controller's address, which the nodes reach."""
    with ChatServer((CONTROLLER, 0), delay_s=0.2) as server:
        server.answer = fakeragas.number
        yield server


def lend(folder: Path, cluster: dc.DevCluster) -> None:
    """Copy the chain's corpus to the nodes' own /tmp, below which gates, which plan all stages, look for it."""
    for node in cluster.nodes if Path("/tmp") in folder.parents else []:
        hosts = cluster.state / "nodes" / node / folder.relative_to("/tmp")  # the host's /tmp, in a node
        done = cluster.run_on(node, ["sh", "-c", f"mkdir -p {folder} && cp -a {hosts}/corpus {hosts}/*.jsonl {folder}"])
        assert done.returncode == 0, done.stderr


def test_killed_judges_lose_no_sample_and_judge_none_twice(
    slurm_env: dc.DevCluster, server: ChatServer, shared_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakeragas.take_place(monkeypatch.setattr)
    done = stagerun.chain_or_skip()
    lend(done.run_dir.parent, slurm_env)
    ledger = servedrun.make_copied_run(done, shared_tmp)
    url = f"http://{CONTROLLER}:{server.server_address[1]}/v1"
    asked = {"base_url": url, "model": "m", "metrics": ["faithfulness", "context_recall"], "concurrency": 1}
    stage = make_stage("judge", asked)
    lines = [f"export PYTHONPATH={TESTS / 'slurm/judgesite'}:{TESTS / 'support'}"]
    conf = str(slurm_env.slurm_conf)
    site = ClusterConfig(
        name="t",
        launcher=Launcher.slurm,
        prologue=lines,
        partition="cpu",
        time_min=10,
        interface="eth0",
        slurm_conf=conf,
    )
    request = dataclasses.replace(
        ledger.request(),
        number=0,
        python=sys.executable,
        stages=[*done.settings, "judge"],
        settings={**done.settings, "judge": to_plain(stage.config)},
        workers=WORKERS,
        cluster=to_plain(site),
    )
    chain.submit(ledger, request)

    def noted() -> int:
        """Return how many answers of the judge lie noted down for units that are not committed."""
        paths = ledger.run_dir.glob("judge-*/carry/unit-*/answers-*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in paths)

    wait_for(lambda: noted() >= NOTED, "answers of the judge", timeout_s=120, step_s=0.02)
    assert kill_workers(ledger.run_dir) >= 1
    kept = noted()
    wait_for(lambda: any(ledger.run_dir.glob("judge-*/manifest.json")), "the end", timeout_s=120, step_s=0.2)

    (folder,) = ledger.run_dir.glob("judge-*")
    found, bodies = load(folder), Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    answers = done.table("generate", "answers.parquet")
    assert Counter(line["query_id"] for line in read_scores(found)) == Counter(row["query_id"] for row in answers)
    records = [read_record(found.unit_dir(unit["index"])) for unit in found.units]
    replayed = sum(int(record["timings"].get("replayed", 0)) for record in records)
    assert NOTED <= kept == replayed
    # asked again is only what was in flight at the kill: a request a worker
    assert bodies.total() - len(bodies) <= WORKERS
    server.delay_s = 0.0
    assert found.output_hash == inline.run_stage(stage, done.out, tmp_path).output_hash
