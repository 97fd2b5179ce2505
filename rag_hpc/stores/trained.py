"""What training passes on: the pairs that are learnt from, the loss of each step, and the model, packed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.tables import rows_of, table_of, write_table

PAIRS, STEPS, MODEL = "pairs.parquet", "steps.parquet", "model.tar"
DROPOUT = "dropout"  # a figure of the stage's output: the largest share that was dropped anywhere in the network
_PAIR_COLUMNS = dict.fromkeys(("query_id", "query", "positive_id", "positive", "negatives"), "string")
_STEP_COLUMNS = {
    "step": "int64",
    "loss": "float64",
    "gradient": "float64",
    "learning_rate": "float64",
    "tokens": "int64",
}
Step = tuple[float, float, float, int]  # loss, length of the gradient, learning rate, tokens of all ranks


@dataclass(frozen=True)
class Pair:
    """A question with a passage that answers it, and some that do not."""

    query_id: str
    query: str
    positive_id: str
    positive: str
    negatives: list[str] = field(default_factory=list)


def write_pairs(unit_dir: Path, pairs: Sequence[Pair]) -> None:
    """Write the pairs in order."""
    rows = [
        (p.query_id, p.query, p.positive_id, p.positive, json.dumps(p.negatives, ensure_ascii=False)) for p in pairs
    ]
    write_table(unit_dir / PAIRS, table_of(rows, _PAIR_COLUMNS))


def read_pairs(made: Manifest) -> list[Pair]:
    """Return the pairs in order."""
    return [Pair(**{**row, "negatives": json.loads(row["negatives"])}) for row in rows_of(made, PAIRS)]


def write_steps(unit_dir: Path, steps: Sequence[Step]) -> None:
    """Write the steps, numbered from 1."""
    write_table(unit_dir / STEPS, table_of([(number, *step) for number, step in enumerate(steps, 1)], _STEP_COLUMNS))


def pack_model(folder: Path, unit_dir: Path) -> None:
    """Write a model's folder as one tar whose bytes depend on its files only."""
    with tarfile.open(unit_dir / MODEL, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o640
            with path.open("rb") as stream:
                tar.addfile(entry, stream)


def unpack_model(trained: Manifest, folder: Path) -> None:
    """Write the files of the model into the folder; the tar's hash is checked before it is read."""
    with tarfile.open(trained.checked(0, MODEL)) as tar:
        tar.extractall(folder, filter="data")
