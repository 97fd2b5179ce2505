"""A run over the fixed chain, for whatever serves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import servedrun
import stagerun

from rag_hpc.core.ledger import Ledger


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, tmp_path: Path) -> Ledger:
    """A run's folder whose stage folders are the chain's."""
    return servedrun.make_run(chain, tmp_path)
