"""A golden set: questions that people have looked at. JSONL, a question a line with its `review_status`.

Only approved ones count. A set that is frozen has its hash beside it, and is refused once it differs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, publish_file, read_json
from rag_hpc.core.hashing import hash_file
from rag_hpc.errors import ConfigError, InputError

PENDING, APPROVED, REJECTED = STATUSES = ("pending", "approved", "rejected")
STATUS = "review_status"
Record = dict[str, Any]


def read_set(path: Path) -> list[Record]:
    """Return the questions of a set in order, whatever their status. Raises InputError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rag-hpc golden generate FILE run=RUN makes one") from error
    check_frozen(path)
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: is no JSON ({error})") from error
        if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("id", "text")):
            raise InputError(f"{path}:{number}: `id` and `text` are needed, both strings")
        counts(record, f"{path}:{number}")
        if record["id"] in {other["id"] for other in records}:
            raise InputError(f"{path}:{number}: `id` {record['id']!r} stands there twice")
        records.append(record)
    return records


def write_set(path: Path, records: Iterable[Record]) -> None:
    """Write a set, whole or not at all. Raises InputError for a frozen one."""
    if frozen_file(path).exists():
        raise InputError(f"{path} is frozen and does not change; copy it to another name to go on with it")
    publish_file(path, b"".join(canonical_json(record) for record in records), overwrite=True)


def counts(record: Mapping[str, Any], place: str) -> bool:
    """Return whether a question is used: approved, or of a file without reviews. InputError for an unknown status."""
    status = record.get(STATUS, APPROVED)
    if status not in STATUSES:
        raise InputError(f"{place}: `{STATUS}` is {status!r}; known: {', '.join(STATUSES)}")
    return bool(status == APPROVED)


def is_golden(path: Path) -> bool:
    """Return whether a file's first question has a status of review."""
    with path.open("rb") as stream:
        return f'"{STATUS}"'.encode() in stream.readline()


def tally(records: Iterable[Record]) -> dict[str, int]:
    """Return how many questions have each status."""
    found = Counter(record.get(STATUS, APPROVED) for record in records)
    return {status: found[status] for status in STATUSES}


def freeze(path: Path) -> dict[str, Any]:
    """Return the set's hash and number of questions, now written beside it: it changes no more.

    Raises ConfigError while questions are pending, or none is approved.
    """
    found = tally(read_set(path))
    if found[PENDING] or not found[APPROVED]:
        raise ConfigError(
            f"{path}: {found[PENDING]} questions are pending and {found[APPROVED]} approved; look at them first: "
            f"rag-hpc golden review {path}"
        )
    value = {"sha256": hash_file(path), **found}
    publish_file(frozen_file(path), canonical_json(value), overwrite=True)
    return value


def frozen_file(path: Path) -> Path:
    """Return where the hash of a frozen set stands."""
    return path.with_name(f"{path.name}.frozen")


def check_frozen(path: Path) -> None:
    """Raise InputError where a set is not what it was when it was frozen."""
    if not frozen_file(path).exists():
        return
    was, now = read_json(frozen_file(path))["sha256"], hash_file(path)
    if was != now:
        raise InputError(
            f"{path} has changed since it was frozen (sha256 {now[:12]} instead of {was[:12]}): figures of before "
            f"would not be those of this set. Get it back, or remove {frozen_file(path)} and freeze it anew"
        )


def reviewed(records: Sequence[Record], ids: Iterable[str], status: str) -> list[Record]:
    """Return the records, those with these ids with another status. Raises ConfigError for ids that there are not."""
    wanted = set(ids)
    if unknown := sorted(wanted - {record["id"] for record in records}):
        raise ConfigError(f"no question is called {unknown[0]!r}; ids are shown by: rag-hpc golden review FILE")
    return [{**record, STATUS: status} if record["id"] in wanted else record for record in records]
