"""Training on a real Slurm: ranks on two nodes, killed on the way, learn what one rank on this machine does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trainset
from workers import kill_workers

from rag_hpc.slurm import devcluster as dc
from rag_hpc.slurm.devcluster.processes import wait_for
from rag_hpc.stores.tables import read_table

pytestmark = pytest.mark.timeout(1200)


def steps_of(run: Path) -> list[list[float]]:
    (path,) = run.glob("train.encoder-*/units/unit-00000/steps.parquet")
    return [[row["loss"], row["gradient"], row["tokens"]] for row in read_table(path).to_pylist()]


def test_killed_ranks_on_two_nodes_go_on_to_the_curve_of_one_rank(slurm_env: dc.DevCluster) -> None:
    pytest.importorskip("sentence_transformers")
    folder = slurm_env.mkshared("train")
    data, model = trainset.write_beir(folder / "beir"), trainset.write_model(folder / "model")
    settings = [f"train.data={data}", f"train.model={model}", "train.batch_size=8", "train.epochs=24"]

    def cli(*args: str, ok: tuple[int, ...] = (0,)) -> str:
        command = [sys.executable, "-m", "rag_hpc.cli", *args]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode in ok, f"{args}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cli("status", "run=two", "--json", ok=(0, 1, 3)))
        return found

    cli("train", "encoder", "run=one", *settings, "workers=1")
    on_slurm = ["cluster=devcluster", f"cluster.slurm_conf={slurm_env.slurm_conf}", "train.checkpoint_steps=1"]
    cli("train", "encoder", "run=two", *settings, "workers=2", *on_slurm)
    run = folder / "results/runs/two"
    wait_for(
        lambda: bool(list(run.glob("train.encoder-*/carry/unit-00000/step-*"))),
        "a checkpoint",
        timeout_s=300,
        step_s=0.05,
    )
    assert kill_workers(run) >= 2
    wait_for(lambda: status()["state"] == "finished" or not status()["jobs"], "the end", timeout_s=600, step_s=2.0)
    assert status()["state"] == "finished", cli("why", "run=two", ok=(0, 1, 3))
    logs = [path.read_text() for path in sorted(run.glob("submissions/*/train.encoder.log"))]
    assert len(logs) > 1 and "goes on after step" in logs[-1]
    assert len(set(re.findall(r"@(n\d) INFO train.encoder: worker", logs[0]))) == 2
    for two, one in zip(steps_of(run), steps_of(folder / "results/runs/one"), strict=True):
        assert two == pytest.approx(one, rel=3e-6)
    told = json.loads(cli("milestones", "two", "--baseline", "one", "--json", ok=(0, 1)))
    [row] = [row for row in told["milestones"] if row["name"] == "same curve as the baseline, train.encoder"]
    assert row["verdict"] == "hit" and row["note"].startswith("p=2 beside p=1"), row
