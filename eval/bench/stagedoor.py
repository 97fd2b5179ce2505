"""Stages run in this process through the contract's own steps: plan, draft, commit, manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core import commit, manifest
from rag_hpc.core.hashing import seed_of
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan, plan_path, write_plan
from rag_hpc.core.planner import Submission, check_conservation, make_plan
from rag_hpc.core.record import Meter, where
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import write_table
from rag_hpc.stages.registry import make_stage

Document = tuple[str, str]  # id, text
DEDUP = ("dedup.sign", "dedup.group", "dedup.verify", "dedup.link", "dedup.drop")


def planned(run_dir: Path, stage: Stage, settings: Mapping[str, Any], inputs: Mapping[str, Manifest],
            p: int = 1) -> Plan:
    """Return the stage's plan, written where a worker would look for it."""
    wanted = {name: found for name, found in inputs.items() if name in (*stage.needs, *stage.wants)}
    plan = make_plan(stage, dict(settings), wanted, run_dir, Submission(run=run_dir.name, number=1, workers=p))
    write_plan(plan_path(run_dir, 1, stage.name), plan)
    (run_dir / plan.folder / commit.UNITS).mkdir(parents=True, exist_ok=True)
    return plan


def closed(run_dir: Path, plan: Plan, stage: Stage, inputs: Mapping[str, Manifest]) -> Manifest:
    """Return the published manifest of a stage whose units are all there."""
    built = manifest.build(plan, run_dir / plan.folder)
    check_conservation(stage, built, inputs)
    manifest.publish(built)
    return built


def run_stage(run_dir: Path, stage: Stage, settings: Mapping[str, Any], inputs: Mapping[str, Manifest]) -> Manifest:
    """Return the published output of a stage after running all its units, one after another."""
    plan = planned(run_dir, stage, settings, inputs)
    with tempfile.TemporaryDirectory(prefix="rag-hpc-") as scratch:
        ctx = Context(inputs=inputs, shared=run_dir, scratch=Path(scratch))
        stage.setup(ctx)
        for unit in plan.units:
            ctx.seed = seed_of(plan.fingerprint, unit.name)
            draft = commit.open_draft(run_dir / plan.folder / commit.UNITS, commit.draft_name(unit, 1, 0, 0))
            meter = Meter()
            counts = stage.run(unit, draft, ctx)
            commit.commit(draft, unit, counts, meter, {"run": plan.run, "stage": plan.stage, "attempt": 1, "rank": 0,
                                                       "submission": 1, "p": 1, "setup_s": 0.0, **where()})
    return closed(run_dir, plan, stage, inputs)


def run_dedup(run_dir: Path, documents: Manifest, settings: Mapping[str, Any]) -> dict[str, Manifest]:
    """Return the outputs of the steps of dedup over the given documents."""
    found = {"clean": documents}
    for name in DEDUP:
        found[name] = run_stage(run_dir, make_stage(name, dict(settings)), settings, found)
    return found


@dataclass
class GivenConfig:
    """Nothing can be set."""


class Given(Stage):
    """Stands in for the clean stage: documents that are there already."""

    Config: ClassVar[type] = GivenConfig
    name = "clean"
    version = 1

    def __init__(self, units: Sequence[Sequence[Document]]) -> None:
        super().__init__(GivenConfig())
        self._units = units

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return a unit for each list of documents."""
        return [Unit(i, {"num_docs": len(documents)}) for i, documents in enumerate(self._units)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write documents.parquet."""
        import pyarrow as pa

        documents = self._units[unit.index]
        columns = {"doc_id": [name for name, _ in documents], "text": [text for _, text in documents]}
        nothing = [""] * len(documents)
        columns = {name: columns.get(name, nothing) for name in ("doc_id", "url", "title", "text", "lang", "meta")}
        write_table(out / "documents.parquet", pa.table({name: pa.array(column, pa.string())
                                                         for name, column in columns.items()}))
        return Counts(items_in=len(documents), items_out=len(documents))


def given_documents(run_dir: Path, units: Sequence[Sequence[Document]]) -> Manifest:
    """Return documents (id, text) as the clean stage would put them out, unit by unit."""
    return run_stage(run_dir, Given(units), {}, {})


def in_units(documents: Sequence[Document], per_unit: int) -> list[Sequence[Document]]:
    """Return the documents cut into units of `per_unit`."""
    return [documents[start : start + per_unit] for start in range(0, len(documents), per_unit)]
