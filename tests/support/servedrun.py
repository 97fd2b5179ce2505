"""A run's folder whose stage folders are those of a chain."""

from __future__ import annotations

import shutil
from pathlib import Path

import stagerun

from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import plan_path, read_plan, write_plan
from rag_hpc.core.planner import make_plan
from rag_hpc.serve import ask, page
from rag_hpc.stages.registry import make_stage


def make_copied_run(chain: stagerun.Chain, folder: Path) -> Ledger:
    """Return the ledger of a run below `folder` that holds copies of the chain's folders, which all nodes see."""
    ledger = make_run(chain, folder)
    for link in [path for path in ledger.run_dir.iterdir() if path.is_symlink()]:
        original = link.resolve()
        link.unlink()
        shutil.copytree(original, link)
    return ledger


def make_run(chain: stagerun.Chain, folder: Path, *more: str) -> Ledger:
    """Return the ledger of a run below `folder` with plans of what is asked and shown, and of more stages."""
    ledger = Ledger(folder / "results" / "runs" / "demo")
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
    for name in (*ask.NEEDED, page.STAGE, *more):
        stage = make_stage(name, {})
        inputs = {n: m for n, m in chain.out.items() if n in (*stage.needs, *stage.wants)}
        plan = make_plan(make_stage(name, chain.settings[name]), inputs, submission)
        write_plan(plan_path(ledger.run_dir, 1, name), plan)
        assert (ledger.run_dir / read_plan(plan_path(ledger.run_dir, 1, name)).folder).is_dir()
    return ledger
