"""Documents that are there already, and the steps of dedup over them, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.core.manifest import Manifest
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.inline import make_stage, run_stage
from rag_hpc.stages.registry import STAGES
from rag_hpc.stores.documents import COLUMNS, DOCUMENTS
from rag_hpc.stores.tables import write_table

Document = tuple[str, str]  # id, text
DEDUP = tuple(name for name in STAGES if name.startswith("dedup."))


def run_dedup(run_dir: Path, documents: Manifest, settings: Mapping[str, Any]) -> dict[str, Manifest]:
    """Return the outputs of the steps of dedup over the given documents."""
    found = {"clean": documents}
    for name in DEDUP:
        found[name] = run_stage(make_stage(name, dict(settings)), found, run_dir)
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
        columns = {name: columns.get(name, nothing) for name in COLUMNS}
        write_table(
            out / DOCUMENTS,
            pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}),
        )
        return Counts(items_in=len(documents), items_out=len(documents))


def given_documents(run_dir: Path, units: Sequence[Sequence[Document]]) -> Manifest:
    """Return documents (id, text) as the clean stage would put them out, unit by unit."""
    return run_stage(Given(units), {}, run_dir)


def in_units(documents: Sequence[Document], per_unit: int) -> list[Sequence[Document]]:
    """Return the documents cut into units of `per_unit`."""
    return [documents[start : start + per_unit] for start in range(0, len(documents), per_unit)]
