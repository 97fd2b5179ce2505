"""Checkpoints: tensors as safetensors with a sealed JSON beside them that holds their hash; nothing is ever unpickled.

FOLDER/step-00000200/state.safetensors  every weight under its name, and the optimizer's two moments of it
                     state.json         step, what the training is of, the losses so far, the hash of the tensors

Their form knows nothing of ranks or strategies: a training goes on with another p, or with another strategy.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import drop_dir, fsync_path, naming_disk, publish_dir, write_durable
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.stored import check_members, read_object, sealed_json
from rag_hpc.errors import CorruptOutput
from rag_hpc.stores.trained import Step

log = logging.getLogger(__name__)
_TENSORS, _STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8})")
KEPT = 2  # the newest one may be cut by a disk that fails


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    step: int  # steps done
    steps: list[Step]

    def tensors(self) -> dict[str, Any]:
        """Return all tensors by name, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / _TENSORS)


def write_checkpoint(carry: Path, order: str, steps: list[Step], tensors: Mapping[str, Any]) -> None:
    """Publish a checkpoint in one step, and drop those before the last two."""
    from safetensors.torch import save_file

    draft = carry / f".draft-{os.uname().nodename}-{os.getpid()}"
    with naming_disk(carry):
        carry.mkdir(parents=True, exist_ok=True, mode=0o700)
        drop_dir(draft)
        draft.mkdir(mode=0o700)
        save_file(dict(tensors), draft / _TENSORS)
        fsync_path(draft / _TENSORS)
        state = {"order": order, "steps": steps, "sha256": hash_file(draft / _TENSORS)}
        write_durable(draft / _STATE, sealed_json(state))
        publish_dir(draft, carry / f"step-{len(steps):08d}")
    for _, folder in _folders(carry)[KEPT:]:
        drop_dir(folder)


def newest_checkpoint(carry: Path, order: str) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, None where there is none. One that is damaged is dropped.

    Raises CorruptOutput for a checkpoint of other pairs or another order.
    """
    for step, folder in _folders(carry):
        try:
            return _read(folder, step, order)
        except (CorruptOutput, FileNotFoundError) as error:
            if isinstance(error, _OtherTraining):
                raise
            log.warning("%s: a damaged checkpoint is passed over (%s)", folder, error)
            drop_dir(folder)
    return None


class _OtherTraining(CorruptOutput):
    pass


def _read(folder: Path, step: int, order: str) -> Checkpoint:
    def checked(value: dict[str, Any]) -> dict[str, Any]:
        check_members(value, {"order": str, "steps": list[Any], "sha256": str})
        if len(value["steps"]) != step:
            raise ValueError(f"it is of step {len(value['steps'])}")
        return value

    state = read_object(folder / _STATE, "the one before it is taken", checked)
    if state["order"] != order:
        raise _OtherTraining(f"{folder}: a checkpoint of another training set or order; remove it to begin anew")
    if hash_file(folder / _TENSORS) != state["sha256"]:
        raise CorruptOutput(f"{folder / _TENSORS}: not the bytes that were written")
    return Checkpoint(folder, step, [(float(a), float(b), float(c), int(d)) for a, b, c, d in state["steps"]])


def _folders(carry: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of the checkpoints, newest first."""
    names = os.listdir(carry) if carry.is_dir() else []
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    return sorted(((int(match[1]), carry / match[0]) for match in matches), reverse=True)
