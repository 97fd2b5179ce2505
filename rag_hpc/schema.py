"""Between plain values (plans, submissions) and checked config dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rag_hpc.errors import ConfigError, did_you_mean

T = TypeVar("T")


def from_plain(schema: type[T], values: dict[str, Any]) -> T:
    """Return `schema` filled from plain values (names of enums as strings), checked."""
    try:
        exact: T = _exact(schema, values)
    except _NotExact:
        return _converted(schema, values)
    return exact


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON-able values, complete (unlike the part that names output)."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return to_plain(value) if dataclasses.is_dataclass(value) else value


class _NotExact(Exception):
    """A value is not of its setting's type as it stands."""


def _exact(kind: Any, value: Any) -> Any:
    """Return the value as `kind`, when it is just that: a plan's values are, and its worker saves OmegaConf's start.

    Raises _NotExact for whatever OmegaConf would convert, resolve or refuse.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _exact(arguments[0], value)
    if origin is list and type(value) is list:
        return [_exact(arguments[0], item) for item in value]
    if origin is dict and type(value) is dict:
        return {_exact(arguments[0], key): _exact(arguments[1], item) for key, item in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and type(value) is dict:
        hints = _hints(kind)
        if value.keys() <= hints.keys():
            return kind(**{name: _exact(hints[name], item) for name, item in value.items()})
    if isinstance(kind, enum.EnumMeta) and type(value) is str and value in kind.__members__:
        return kind[value]
    if type(value) is not kind or kind not in (str, int, float, bool) or "${" in str(value) or value == "???":
        raise _NotExact
    return value


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _converted(schema: type[T], values: dict[str, Any]) -> T:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        found: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{schema.__name__}: {explain(error)}") from error
    return found


def explain(error: Exception) -> str:
    """Return Hydra's message with the known keys where it gives none."""
    text = str(error).strip()
    cause = error.__cause__
    if cause is not None and str(cause).strip() not in text:
        text += f"\n{cause}"
    if choice := re.search(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        text += f"\n{did_you_mean(choice[1], choice[2].split(', '))}".rstrip()
    if "is not a ListConfig" in text:
        text += "\nA list is written in brackets: KEY=[VALUE,VALUE]"
    if "override_grammar" in text:
        text += (
            "\nA value with other characters than letters, digits and . : / - _ % + @ * has quotes of its own, "
            "inside the shell's: 'corpus.allow=[\"^https?://h/(a|b)\"]'"
        )
    return text + "\nSee all keys: rag-hpc run --cfg job"
