"""Fixtures of the launchers' tests: runs of toy stages on a Slurm of stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import slurm
from toystages import toy_request

from rag_hpc.config import ClusterConfig, Launcher
from rag_hpc.launchers.ledger import Request
from rag_hpc.schema import to_plain

__all__ = ["slurm"]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Request]:
    """Return a function that makes a request of toy stages for Slurm; `cluster` holds ClusterConfig's settings."""
    def make(*stages: str, workers: int = 4, cluster: dict[str, Any] | None = None, **more: Any) -> Request:
        import dataclasses

        site = ClusterConfig(name="site", launcher=Launcher.slurm, **(cluster or {}))
        request = toy_request("run", stages or ("toy.source", "toy.double"), workers, **more)
        return dataclasses.replace(request, cluster=to_plain(site), python="/venv/bin/python")
    return make
