"""What dedup of a billion documents would take, from rates and bytes measured on one core."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rag_hpc.core.manifest import Manifest
from rag_hpc.eval.bench.dedup.given import DEDUP
from rag_hpc.eval.bench.rows import Row
from rag_hpc.inline import make_stage, run_stage

BILLION = 10**9
PER_UNIT = 100_000  # documents, some 150 MB of text
CORES = 64  # of a node
GIB = 1 << 30
FILES_A_UNIT = {"dedup.sign": 3, "dedup.group": 2, "dedup.verify": 2, "dedup.link": 3, "dedup.drop": 3}
NUM_GROUPS = 21  # one band each, so each also sorts the hashes of exact copies once more
SETTINGS = {"num_groups": NUM_GROUPS, "memory_mib": 4}  # so little that a unit sorts through the disk, as it would then


def timed_dedup(run_dir: Path, documents: Manifest) -> tuple[dict[str, float], dict[str, Manifest]]:
    """Return the CPU seconds of each step, with commits and manifests, and what the steps put out.

    They are those of all threads: manifests are verified by several. Waiting for a disk is not among them.
    """
    found, seconds = {"clean": documents}, {}
    for name in DEDUP:
        begun = time.process_time()
        found[name] = run_stage(make_stage(name, SETTINGS), found, run_dir)
        seconds[name] = time.process_time() - begun
    return seconds, found


def rows(seconds: Mapping[str, float], found: Mapping[str, Manifest]) -> list[Row]:
    """Return the steps' rates, and what a billion such documents take in core-hours, node-hours, disk and files."""
    num = found["clean"].total("items_out")
    scale = BILLION / num
    out = [
        Row(name=f"rate of {name}", ours=num / took, unit="documents/CPU second", note=f"{num} documents")
        for name, took in seconds.items()
    ]
    hours = sum(seconds.values()) * scale / 3600
    disk = {name: num_bytes(found[name]) * scale / GIB for name in DEDUP}
    scratch = BILLION * (8 + 8) / GIB  # a row of (key, document) of one band, which a unit of group sorts
    return [
        *out,
        Row(
            name="1e9 documents, work",
            ours=hours,
            unit="core-hours",
            note=f"{hours / CORES:.1f} hours of a node of "
            f"{CORES} cores at this machine's rates, file system permitting",
        ),
        Row(
            name="1e9 documents, disk",
            ours=sum(disk.values()),
            unit="GiB",
            note=", ".join(f"{name} {size:,.0f}" for name, size in disk.items()),
        ),
        Row(
            name="1e9 documents, scratch of a unit of dedup.group",
            ours=scratch,
            unit="GiB",
            note=f"num_groups={NUM_GROUPS}, one band a unit",
        ),
        Row(name="1e9 documents, files", ours=float(num_files()), unit="files", note=f"{PER_UNIT} documents a unit"),
        Row(
            name="1e9 documents, labels of a rank of dedup.link",
            ours=BILLION * 8 / CORES / GIB,
            unit="GiB",
            note=f"{CORES} ranks; sorting and jumping hold some five times that",
        ),
    ]


def num_bytes(found: Manifest) -> int:
    """Return the bytes of all files of a stage."""
    return sum(int(file["bytes"]) for unit in found.units for file in unit["files"].values())


def num_files() -> int:
    """Return how many files the units of all steps have, their records among them."""
    units = BILLION // PER_UNIT
    num_units = {"dedup.group": NUM_GROUPS + 1, "dedup.link": 1}
    return sum(num_units.get(name, units) * files for name, files in FILES_A_UNIT.items())
