"""What config dataclasses say of their fields, beside the type: bounds, paths, names of runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rag_hpc.errors import ConfigError

DAY_S = 86400.0


def bounded(default: float, low: float, high: float = math.inf, **metadata: Any) -> Any:
    """Return the field of a number that `check_bounds` holds between `low` and `high`, both allowed."""
    return dataclasses.field(default=default, metadata={"bounds": (low, high), **metadata})


def path_field(default: str | None = None, only: str = "any") -> Any:
    """Return the field of a path, made absolute when a run is composed: jobs run in another folder.

    With only="file" or "folder", what is none here stays as it is: it may be the name of something else.
    """
    return dataclasses.field(default=default, metadata={"path": only})


def check_bounds(config: Any, group: str) -> None:
    """Raise ConfigError for the first number out of its bounds, NaN included."""
    for field in dataclasses.fields(config):
        low, high = field.metadata.get("bounds", (None, None))
        if low is not None and not low <= (value := getattr(config, field.name)) <= high:
            wanted = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"{group}.{field.name}={value}: {wanted} is needed")


def check_address(base_url: str, group: str) -> None:
    """Raise ConfigError for an address that holds more than where an endpoint is: it is written into a run's files."""
    if {"@", "?"} & set(base_url):
        raise ConfigError(
            f"{group}.base_url: an address with a name, a password or a query would be written into the run's "
            f"files; give the bare address, and the key as {group}.api_key_env or {group}.api_key_file"
        )
