"""Fixtures of the launchers' tests: runs of toy stages on a Slurm of stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, slurm
from toystages import toy_request

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.schema import to_plain
from rag_hpc.slurm.cluster import ClusterConfig, Launcher

__all__ = ["slurm"]
OFFERS = "cpu*|2:00:00|(null)\ngpu|1:00:00|gpu:a100:2(S:0)\n"


@pytest.fixture
def run_gate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs a gate as its job would."""

    from rag_hpc.launchers import gate

    def run(ledger: Ledger, number: int = 1, stage: str = "toy.source") -> int:
        own = next(job["ids"][0] for job in ledger.jobs(number) if (job["stage"], job["kind"]) == (stage, "gate"))
        monkeypatch.setenv("SLURM_JOB_ID", own)
        return gate.main([str(ledger.run_dir), str(number), stage])

    return run


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Request]:
    """Return a function that makes a request of toy stages for Slurm; `cluster` holds ClusterConfig's settings."""

    def make(*stages: str, workers: int = 4, cluster: dict[str, Any] | None = None, **more: Any) -> Request:
        import dataclasses

        site = ClusterConfig(name="site", launcher=Launcher.slurm, **(cluster or {}))
        request = toy_request("run", stages or ("toy.source", "toy.double"), workers, **more)
        return dataclasses.replace(request, cluster=to_plain(site), python="/venv/bin/python")

    return make


@pytest.fixture
def offers(slurm: FakeSlurm) -> FakeSlurm:
    """The stand-ins with a sinfo that tells of partitions and of what their nodes offer."""
    program = slurm.folder / "bin" / "sinfo"
    (slurm.folder / "offers").write_text(OFFERS)
    program.rename(program.with_name("sinfo-partitions"))
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *%G*) cat {slurm.folder}/offers;; *) exec "{program}-partitions" "$@";; esac\n'
    )
    program.chmod(0o755)
    slurm.says("sinfo-partitions", "cpu*|up|4\ngpu|up|2\nold|down|8\n")
    return slurm
