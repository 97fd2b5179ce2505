"""A run over the fixed chain, for whatever serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gateways
import pytest
import servedrun
import stagerun
from chatserver import ChatServer

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.serve.gateway.places import FOLDER, Doors


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, tmp_path: Path) -> Ledger:
    """A run's folder whose stage folders are the chain's."""
    return servedrun.make_run(chain, tmp_path)


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A run with a group of two ranks, for gateways."""
    ledger = servedrun.make_run(stagerun.chain_or_skip(), tmp_path_factory.mktemp("gated"))
    assert main(["serve", "up", f"run={ledger.run_dir}", "workers=2", "serve.deadline_ms=20000"]) == 0
    yield ledger
    assert main(["serve", "down", f"run={ledger.run_dir}"]) == 0
    assert not (ledger.run_dir / FOLDER).exists()


@pytest.fixture(scope="session")
def replicas() -> Iterator[list[ChatServer]]:
    with ChatServer() as one, ChatServer() as two:
        yield [one, two]


@pytest.fixture(scope="session")
def modelled(gated: Ledger, replicas: list[ChatServer]) -> Iterator[Doors]:
    """The doors of a gateway whose answers come from two replicas."""
    addresses = ",".join(one.url for one in replicas)
    settings = ["generator=openai", "generator.model=m", f"gateway.replicas=[{addresses}]"]
    limits = ["gateway.heartbeat_s=0.2", "gateway.max_stream_s=3", "gateway.search_ms=5000", "gateway.cache=false"]
    limits += ["gateway.log=true", "gateway.log_s=0.2", "gateway.wait_ms=0"]
    with gateways.gateway(gated, "modelled", *settings, *limits) as found:
        yield found
