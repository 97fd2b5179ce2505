"""Commits: the only code that publishes a unit. One winner per unit, and a crash at any point leaves no half.

Steps: private draft folder beside the target, named by attempt -> files -> fsync of each -> record.json -> fsync of
the folder -> one rename -> fsync of the parent. A rename onto a committed unit fails, so a second attempt, or an
orphan on a node that came back, loses cleanly. Source of the recipe: Pillai et al., OSDI 2014 (ALICE).
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import TRASH, drop_dir, fsync_path, publish_dir, write_durable
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.ledger import mend
from rag_hpc.core.record import Meter, Record
from rag_hpc.core.stored import read_object, sealed_json, typed
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import CorruptOutput, RagHpcError

RECORD = "record.json"
UNITS = "units"
CARRY = "carry"
MAX_FILES = 3
_ONE_HEADER = threading.Lock()  # NumPy reads it by `ast`: not from two threads in CPython below 3.11.8 (gh-106905)
COMMITTED = re.compile(r"unit-(\d{5,})")
DRAFT = re.compile(r"\.draft-unit-(\d{5,})\.s(\d+)\.w(\d+)\.r\d+-\d+")  # unit, submission, worker; see draft_name


class UnbalancedCounts(RagHpcError):
    """A stage's counts do not add up: in != out + dropped."""


def draft_name(unit: Unit, submission: int, worker: int, restarts: int) -> str:
    """Return the name of an attempt's private folder; the dot keeps it out of listings of committed units.

    With the process id, since a worker that was started twice by mistake must not write into its twin's draft.
    """
    return f".draft-{unit.name}.s{submission:04d}.w{worker:04d}.r{restarts}-{os.getpid()}"


def open_draft(units_dir: Path, name: str) -> Path:
    """Return a fresh, empty draft folder; what an earlier attempt of the same name left is dropped."""
    draft = units_dir / name
    drop_dir(draft)
    draft.mkdir(mode=0o750)  # less the umask
    return draft


def commit(draft: Path, unit: Unit, counts: Counts, meter: Meter, identity: dict[str, Any]) -> Record | None:
    """Publish the draft as the unit and return its record, or None when another attempt was first.

    Raises UnbalancedCounts when the counts do not add up, and RagHpcError when the draft holds too many files.
    """
    if counts.balance:
        raise UnbalancedCounts(f"{unit.name}: {counts.balance} of {counts.items_in} items are neither out nor dropped")
    files = _flush_files(draft)
    known: dict[str, Any] = {
        "items_in": counts.items_in,
        "items_out": counts.items_out,
        "dropped": counts.dropped,
        "extra": counts.extra,
        "timings": counts.timings,
        "files": files,
        "unit": unit.index,
    }
    record = Record(**identity, **known, **meter.values())
    write_durable(draft / RECORD, sealed_json(dataclasses.asdict(record)))
    return record if publish_dir(draft, draft.parent / unit.name) else None


def carry_dir(stage_dir: Path, unit: Unit) -> Path:
    """Return the folder that the attempts at a unit share; it goes when the unit is committed."""
    return stage_dir / CARRY / unit.name


def read_record(unit_dir: Path) -> dict[str, Any]:
    """Return the record of a committed unit; CorruptOutput when it is damaged."""
    path = unit_dir / RECORD
    try:
        return read_object(path, mend(unit_dir.parents[2]), lambda values: dataclasses.asdict(typed(Record, values)))
    except FileNotFoundError as error:
        raise CorruptOutput(f"{path}: it is gone; {mend(unit_dir.parents[2])}") from error


def committed(units_dir: Path) -> set[int]:
    """Return the indices of the committed units in a stage's folder."""
    return {int(name[5:]) for name in _names(units_dir) if COMMITTED.fullmatch(name)}


def drafts(units_dir: Path) -> dict[str, int]:
    """Return the open drafts: folder name -> unit index."""
    found = [DRAFT.fullmatch(name) for name in _names(units_dir)]
    return {match[0]: int(match[1]) for match in found if match}


def sweep(units_dir: Path, *, submission: int, worker: int | None = None) -> None:
    """Drop drafts of earlier submissions, or, given a worker, its own of before a requeue: their owners are fenced."""
    for name in _names(units_dir):
        match = DRAFT.fullmatch(name)
        older = match is not None and int(match[2]) < submission
        own = match is not None and int(match[2]) == submission and int(match[3]) == worker
        if older or own or name.startswith(TRASH):
            drop_dir(units_dir / name)
    done, carry = committed(units_dir), units_dir.parent / CARRY
    for name in _names(carry):  # of workers that died between commit and removal
        match = COMMITTED.fullmatch(name)
        if name.startswith(TRASH) or (match is not None and int(match[1]) in done):
            drop_dir(carry / name)


def _flush_files(draft: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(draft.iterdir())
    plain = all(path.is_file() and not path.is_symlink() and path.name != RECORD for path in paths)
    if len(paths) + 1 > MAX_FILES or not plain:
        names = ", ".join(path.name for path in paths)
        raise RagHpcError(f"a unit holds at most {MAX_FILES - 1} plain files beside its {RECORD}, this one: {names}")
    for path in paths:
        fsync_path(path)
    return {p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p), "rows": num_rows(p)} for p in paths}


def num_rows(path: Path) -> int | None:
    """Return the rows of a Parquet or .npy file (axis 0), None for other files."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    if path.suffix == ".npy":
        import numpy as np

        with _ONE_HEADER:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        return int(shape[0]) if shape else 0
    return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
