"""Failed attempts: one small file each, so that attempts are counted across workers, jobs and submissions."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import publish_file
from rag_hpc.core.ledger import mend
from rag_hpc.core.stored import check_members, read_object, sealed_json
from rag_hpc.core.unit import Unit

FAILURES = "failures"
_MEMBERS = {"unit": int, "error": str, "message": str, "traceback": str, "host": str, "submission": int, "unix": float}


def record_failure(stage_dir: Path, unit: Unit, error: BaseException, *, submission: int) -> int:
    """Store the attempt's traceback and return how many attempts of the unit have failed so far."""
    folder = stage_dir / FAILURES
    folder.mkdir(exist_ok=True)
    text = "".join(traceback.format_exception(error))
    value = {
        "unit": unit.index,
        "error": type(error).__name__,
        "message": str(error),
        "traceback": text[-8000:],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "submission": submission,
        "unix": round(time.time(), 3),
    }
    attempt = 1
    while not publish_file(folder / f"{unit.name}.{attempt}.json", sealed_json(value)):
        attempt += 1
    return attempt


def failures(stage_dir: Path) -> dict[int, list[dict[str, Any]]]:
    """Return the failed attempts of each unit, oldest first; CorruptOutput names a note that is damaged."""
    found: dict[int, list[dict[str, Any]]] = {}
    for index, _, path in sorted(_files(stage_dir)):

        def checked(value: dict[str, Any], index: int = index) -> dict[str, Any]:
            check_members(value, _MEMBERS)
            if value["unit"] != index:
                raise ValueError(f"it is of unit {value['unit']}")
            return value

        found.setdefault(index, []).append(read_object(path, mend(stage_dir.parent), checked))
    return found


def failure_counts(stage_dir: Path) -> Counter[int]:
    """Return how many attempts of each unit have failed, from one listing: workers ask before every unit."""
    return Counter(index for index, _, _ in _files(stage_dir))


def num_failures(stage_dir: Path, unit: Unit) -> int:
    """Return how many attempts of the unit have failed."""
    return failure_counts(stage_dir)[unit.index]


def forgive(stage_dir: Path) -> int:
    """Remove the stage's failures, so that quarantined units are tried again; return how many there were."""
    paths = [path for _, _, path in _files(stage_dir)]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _files(stage_dir: Path) -> list[tuple[int, int, Path]]:
    """Return (unit index, attempt, path) of each failure."""
    names = [(path.name.split("."), path) for path in (stage_dir / FAILURES).glob("unit-*.json")]
    return [(int(parts[0][5:]), int(parts[1]), path) for parts, path in names]
