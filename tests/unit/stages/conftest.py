"""The fixed corpus, run through the stages once a session."""

from __future__ import annotations

import pytest
import stagerun


@pytest.fixture(scope="session")
def front() -> stagerun.Chain:
    """The fixed corpus as far as its chunks. Read it, never write to it."""
    return stagerun.chain_or_skip(stagerun.front_chain)


@pytest.fixture(scope="session")
def chain() -> stagerun.Chain:
    """The whole chain over the fixed corpus. Read it, never write to it."""
    return stagerun.chain_or_skip()
