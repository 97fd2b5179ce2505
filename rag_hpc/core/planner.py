"""From manifests to the next stage's plan."""

from __future__ import annotations

from collections.abc import Mapping

from rag_hpc.core.hashing import fingerprint, hash_value
from rag_hpc.core.ledger import Submission
from rag_hpc.core.manifest import Manifest
from rag_hpc.core.plan import Plan
from rag_hpc.core.stage import Stage, output_config
from rag_hpc.errors import CorruptOutput, InputError


def make_plan(stage: Stage, inputs: Mapping[str, Manifest], submission: Submission) -> Plan:
    """Return the plan of `stage` over its input manifests in a submission.

    Raises InputError when there is nothing to do. The units are part of the fingerprint: a source's units carry
    sizes and hashes of what they read.
    """
    request = submission.request
    units = stage.plan(inputs, submission.ledger.run_dir)
    if not units and not stage.may_be_empty:
        raise InputError(f"{stage.name}: nothing to do, its input is empty; see the rejects of the stage before it")
    hashes = {name: found.output_hash for name, found in sorted(inputs.items())}
    named = {**hashes, "units": hash_value([unit.inputs for unit in units])}
    return Plan(
        run=request.run,
        stage=stage.name,
        version=stage.version,
        fingerprint=fingerprint(stage.name, stage.version, output_config(stage.config), named),
        config=request.settings[stage.name],
        output_config=output_config(stage.config),
        identity=stage.identity,
        counts_from=stage.counts_from,
        inputs={name: found.folder.name for name, found in sorted(inputs.items())},
        input_hashes=hashes,
        units=units,
        submission=request.number,
        workers=request.workers,
        policy=request.policy,
        notes=stage.notes,
    )


def check_conservation(manifest: Manifest, inputs: Mapping[str, Manifest]) -> None:
    """Raise CorruptOutput when the stage took in another number of items than its input, all rounds of it, put out."""
    given, taken = manifest.given(inputs), manifest.total("items_in")
    if given not in (None, taken) and not manifest.quarantined:
        raise CorruptOutput(
            f"{manifest.stage}: {manifest.counts_from} put out {given} items but {taken} were taken in; "
            f"this is a bug in the stage's plan, please report it with {manifest.folder}"
        )
