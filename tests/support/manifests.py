"""A manifest of the files that a test wrote itself, for what reads units through one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rag_hpc.core.commit import UNITS, num_rows
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.chunks import open_chunks


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


def chunks_of(folder: Path, rows: list[tuple[str, str]], per_unit: int = 4) -> Manifest:
    """Return a made-up chunk stage's output of (text, language)."""
    for index, start in enumerate(range(0, len(rows), per_unit)):
        unit_dir = folder / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        with open_chunks(unit_dir) as chunks:
            for at, (text, lang) in enumerate(rows[start : start + per_unit], start):
                chunks.add(f"c{at}", f"d{at}", "", f"title {at}", lang, "", text, 0, len(text), 9)
    given = manifest_of(folder, "chunk")
    units = [
        {**unit, "items_in": num, "items_out": num, "dropped": {}, "extra": {"chunks": num}}
        for unit, num in zip(given.units, given.rows("chunks.parquet"), strict=True)
    ]
    return dataclasses.replace(given, units=units, output_hash=str(len(rows)))
