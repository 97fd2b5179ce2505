"""Reads .wandb files: LevelDB's log format (blocks of 32 KiB, heads of 7 bytes) an entry a protobuf record."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEAD = 1 << 15, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


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
    """Yield the entries of a log; it begins with 7 bytes of its own."""
    assert data[:4] == b":W&B"
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
    """Return what the one .wandb file of an offline folder tells."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    found = Stored()
    for entry in entries(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(entry)
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
    return item.key or ".".join(item.nested_key)
