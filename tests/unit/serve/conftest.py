"""A run's folder over the fixed chain, for whatever serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stagerun

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import plan_path, read_plan, write_plan
from rag_hpc.core.planner import make_plan
from rag_hpc.serve import ask, page
from rag_hpc.stages.registry import make_stage


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, tmp_path: Path) -> Iterator[Ledger]:
    """A run's folder whose stage folders are the chain's."""
    ledger = Ledger(tmp_path / "results" / "runs" / "demo")
    ledger.create({})
    for found in chain.out.values():
        (ledger.run_dir / found.folder.name).symlink_to(found.folder)
    submission = ledger.submit(
        Request(
            run="demo",
            number=0,
            stages=list(chain.settings),
            settings=chain.settings,
            workers=1,
            cluster={"root": None},
        )
    )
    for name in (*ask.NEEDED, page.STAGE):
        inputs = {n: m for n, m in chain.out.items() if n in make_stage(name, {}).needs}
        plan = make_plan(make_stage(name, chain.settings[name]), inputs, submission)
        write_plan(plan_path(ledger.run_dir, 1, name), plan)
        assert (ledger.run_dir / read_plan(plan_path(ledger.run_dir, 1, name)).folder).is_dir()
    yield ledger
