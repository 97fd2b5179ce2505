"""A manifest of the files that a test wrote itself, for what reads units through one."""

from __future__ import annotations

from pathlib import Path

from rag_hpc.core.commit import UNITS, num_rows
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.manifest import Manifest


def manifest_of(folder: Path, stage: str) -> Manifest:
    """Return the manifest of the units in a stage's folder, none of which was committed."""
    units = [
        {
            "index": int(unit_dir.name[5:]),
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path), "rows": num_rows(path)}
                for path in sorted(unit_dir.iterdir())
            },
        }
        for unit_dir in sorted((folder / UNITS).iterdir())
    ]
    return Manifest(
        stage=stage,
        version=1,
        fingerprint="",
        config={},
        inputs={},
        units=units,
        quarantined=[],
        output_hash="",
        folder=folder,
    )
