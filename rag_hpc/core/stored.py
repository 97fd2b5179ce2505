"""The JSON files of a run: each ends with the hash of its own text, and one door reads them and names what is damaged.

Files that version 0.1.0 wrote carry no such seal; they are read all the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rag_hpc.core.fs import canonical_json
from rag_hpc.errors import CorruptOutput, RagHpcError

SEAL = "seal"
Made = TypeVar("Made")


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of `value`, which has members, with the SHA-256 of that text as a last one, "seal"."""
    text = canonical_json(value)
    return text.removesuffix(b"}\n") + _tail(hashlib.sha256(text).hexdigest())


def read_object(path: Path, remedy: str, make: Callable[[dict[str, Any]], Made]) -> Made:
    """Return what `make` makes of the JSON object at `path`, its seal included.

    Raises FileNotFoundError, and CorruptOutput, ending with the remedy, when it is no JSON object, when its text is not
    what it was sealed with, or when `make` finds a member absent or wrong (KeyError, TypeError, ValueError).
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise CorruptOutput(f"{path}: damaged ({error}); {remedy}") from error
    return read_text(data, str(path), remedy, make)


def read_text(data: bytes, where: str, remedy: str, make: Callable[[dict[str, Any]], Made]) -> Made:
    """Return what `make` makes of the JSON object that the text is. Raises CorruptOutput as `read_object` does."""
    try:
        return make(_unsealed(data))
    except (FileNotFoundError, PermissionError):
        raise
    except RecursionError as error:
        raise CorruptOutput(f"{where}: damaged (values nested without end); {remedy}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RagHpcError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptOutput(f"{where}: damaged ({told}); {remedy}") from error


def typed(cls: Callable[..., Made], values: Mapping[str, Any]) -> Made:
    """Return the dataclass with these fields; TypeError for one that is unknown, absent or of another type."""
    hints = _hints(cls)
    check_members(values, {name: hint for name, hint in hints.items() if name in values})
    return cls(**{name: value for name, value in values.items() if name != SEAL or SEAL in hints})


def check_members(value: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError for a member that is absent or of another type."""
    for name, kind in kinds.items():
        if not _fits(value[name], kind):
            raise TypeError(f"{name} is {str(value[name])[:40]!r}")


def _tail(digest: object) -> bytes:
    return f',"{SEAL}":"{digest}"}}\n'.encode()


def _unsealed(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    if SEAL in value:
        tail = _tail(value[SEAL])
        if not data.endswith(tail) or hashlib.sha256(data.removesuffix(tail) + b"}\n").hexdigest() != value[SEAL]:
            raise ValueError("its text is not the one that its seal is of")
    return value


@functools.cache
def _hints(cls: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value, as JSON gives it or a part made already, is of the type that a field names."""
    outer, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if outer in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if outer in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(item, inner[0]) for item in value)
    if outer is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
