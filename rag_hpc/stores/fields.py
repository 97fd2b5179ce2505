"""Fields of documents that passages carry, so that a search may be confined by them: their names, kinds and values."""

from __future__ import annotations

import datetime
import enum
import json
import keyword
from collections.abc import Iterable, Mapping
from typing import Any

from rag_hpc.errors import ConfigError

NUMBER, DATE = "double", "date32[day]"  # Arrow's names


class FieldKind(enum.Enum):
    """What a field's values are; the value is Arrow's name of it."""

    string = "string"
    number = NUMBER
    date = DATE


def check_fields(fields: Mapping[str, FieldKind], taken: Iterable[str]) -> None:
    """Raise ConfigError for a name that a filter could not write, or that passages have already."""
    for name in fields:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigError(
                f"stage.chunk.fields: {name!r} is no name for a filter; letters, digits and _ are, as in published_on"
            )
        if name in taken:
            raise ConfigError(f"stage.chunk.fields: passages have a {name!r} of their own; leave it away")


def values_of(meta: str, fields: Mapping[str, FieldKind]) -> list[Any]:
    """Return the fields' values in a document's metadata, JSON; None of one that is not there or not of its kind."""
    if not fields:
        return []
    try:
        held = json.loads(meta or "{}")
    except (ValueError, RecursionError):
        held = None
    return [_value(held.get(name) if isinstance(held, dict) else None, kind) for name, kind in fields.items()]


def date_of(text: str) -> datetime.date | None:
    """Return the day of a text that begins as ISO 8601 has it, such as 2024-05-31T12:00:00Z; None of others."""
    day, rest = text.strip()[:10], text.strip()[10:11]
    try:
        return datetime.date.fromisoformat(day) if len(day) == 10 and rest in ("", "T", " ") else None
    except ValueError:
        return None


def _value(given: Any, kind: FieldKind) -> Any:
    if given is None or isinstance(given, (dict, list)):
        return None
    if kind is FieldKind.string:
        return given if isinstance(given, str) else json.dumps(given)
    if kind is FieldKind.date:
        return date_of(given) if isinstance(given, str) else None
    try:
        return None if isinstance(given, bool) else float(given)
    except (ValueError, OverflowError):
        return None
