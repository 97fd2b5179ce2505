"""Replicas as jobs of Slurm: their number changes, and each slot is held by one job."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatserver import fake_vllm, model_like
from fake_slurm import FakeSlurm

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.serve.replicas import asked, jobs_of, places_of

SITE = ["cluster=slurm", "cluster.time_min=60"]


def test_jobs_are_added_cancelled_and_made_up_for(
    tmp_path: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path / "runs" / "r")
    ledger.create({})
    ledger.submit(Request(run="r", number=0, stages=[], settings={}, workers=1, cluster={"root": None}))
    up = ["serve", "replicas", f"run={ledger.run_dir}"]
    engine = [f"generator.model={model_like(tmp_path / 'model')}", f"generator.vllm.python={fake_vllm(tmp_path)}"]
    assert main([*up, *SITE, "generator=vllm", *engine, "workers=2"]) == 0
    (place,) = places_of(ledger.run_dir)

    def held() -> list[tuple[str, int, int]]:
        return [(job.id, job.slot, job.generation) for job in jobs_of(place)]

    first = [("1", 0, 0), ("2", 1, 0)]
    slurm.says("squeue", "1|RUNNING|1:00|n1|None|rh-r-replica.1.0\n2|PENDING|0:00||Priority|rh-r-replica.1.1\n")
    assert held() == first
    assert main([*up, "workers=1"]) == 0
    assert asked(place).num == 1 and held() == first
    assert [call["argv"][-1] for call in slurm.calls("scancel") if call["argv"][1:]] == ["2"]
    assert main([*up, "workers=3"]) == 0
    assert held() == [*first, ("3", 1, 1), ("4", 2, 0)]
    slurm.says("job-1", "JobId=1 JobState=FAILED ExitCode=0:9 NodeList=n1\n")
    slurm.says("squeue", "3|RUNNING|1:00|n1|None|rh-r-replica.1.1-1\n4|RUNNING|1:00|n1|None|rh-r-replica.1.2\n")
    assert main(up) == 0
    assert held()[4:] == [("5", 0, 1)]
    capsys.readouterr()
    for words, said in (
        (["cluster=slurm", "cluster.time_min=30"], "on another site"),
        (["serve.replica.canary_s=9"], "replicas are engines"),
    ):
        assert main([*up, *words, "workers=4"]) == 2
        assert said in capsys.readouterr().err
    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / ".replicas").exists()
