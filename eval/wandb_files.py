"""W&B's offline folders, read back: a log as LevelDB keeps it (blocks of 32 KiB), each entry a protobuf record.

wandb itself offers no reader; its protobuf classes are used.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.errors import CorruptOutput

BLOCK, HEAD = 1 << 15, 7
FULL, LAST = 1, 4  # kinds of a part after which an entry is whole; 2 and 3 go on


@dataclass
class Stored:
    """What a .wandb file tells of its run."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)  # name or glob -> what it is drawn against
    exited: bool = False


def entries(data: bytes) -> Iterator[bytes]:
    """Yield the entries of a log; it begins with 7 bytes of its own. Raises ValueError for another file."""
    if data[:4] != b":W&B":
        raise ValueError("no log of wandb")
    at, parts = HEAD, []
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        parts.append(data[at + HEAD : at + HEAD + length])
        at += HEAD + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def read(folder: Path) -> Stored:
    """Return what the one .wandb file of an offline folder tells. Raises CorruptOutput where there is none to read."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = Stored()
    try:
        (path,) = folder.glob("*.wandb")
        told = list(entries(path.read_bytes()))
    except ValueError as error:
        raise CorruptOutput(f"{folder}: {error}; remove it, and publish again") from error
    for entry in told:
        record = messages.Record.FromString(entry)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.name, found.group = run.run_id, run.display_name, run.run_group
            found.job_type, found.project = run.job_type, run.project
            found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            found.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            found.exited = record.exit.exit_code == 0
    return found


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table that an offline folder holds."""
    (path,) = folder.glob(f"files/media/table/{name}_*.table.json")
    value = json.loads(path.read_text())
    return [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]


def folders(root: Path) -> list[Path]:
    """Return all that lies in a tracker's folder, drafts too."""
    return sorted((root / "wandb").iterdir())


def _key(item: Any) -> str:
    return str(item.key or ".".join(item.nested_key))
