"""From manifests to the next stage's plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.core.hashing import fingerprint, hash_value
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Stage, output_config
from rag_hpc.errors import CorruptOutput, InputError


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What all plans of one submission share."""

    run: str
    number: int
    workers: int
    max_attempts: int = 3
    allow_failed_units: int = 0
    backup_after_s: float = 60.0


def make_plan(stage: Stage, settings: dict[str, Any], inputs: Mapping[str, Manifest], run_dir: Path,
              submission: Submission) -> Plan:
    """Return the plan of `stage` over its input manifests; `settings` is its whole config in plain values.

    Raises InputError when there is nothing to do. The units are part of the fingerprint: a source's units carry
    sizes and hashes of what they read.
    """
    units = stage.plan(inputs, run_dir)
    if not units and not stage.may_be_empty:
        raise InputError(f"{stage.name}: nothing to do, its input is empty; see the rejects of the stage before it")
    hashes = {name: found.output_hash for name, found in sorted(inputs.items())}
    named = {**hashes, "units": hash_value([unit.inputs for unit in units])}
    return Plan(
        run=submission.run,
        stage=stage.name,
        version=stage.version,
        fingerprint=fingerprint(stage.name, stage.version, output_config(stage.config), named),
        config=settings,
        output_config=output_config(stage.config),
        inputs={name: found.folder.name for name, found in sorted(inputs.items())},
        input_hashes=hashes,
        units=units,
        submission=submission.number,
        workers=submission.workers,
        max_attempts=submission.max_attempts,
        allow_failed_units=submission.allow_failed_units,
        backup_after_s=submission.backup_after_s,
    )


def check_conservation(stage: Stage, manifest: Manifest, inputs: Mapping[str, Manifest]) -> None:
    """Raise CorruptOutput when the stage took in another number of items than its input, all rounds of it, put out."""
    if stage.counts_from is None or manifest.quarantined:
        return
    rounds = [found for name, found in inputs.items() if re.fullmatch(rf"{re.escape(stage.counts_from)}(\.\d+)?", name)]
    given, taken = sum(found.total("items_out") for found in rounds), manifest.total("items_in")
    if given != taken:
        raise CorruptOutput(f"{stage.name}: {stage.counts_from} put out {given} items but {taken} were taken in; "
                            f"this is a bug in the stage's plan, please report it with {manifest.folder}")
