"""Between plain values (plans, submissions) and checked config dataclasses."""

from __future__ import annotations

from typing import Any, TypeVar

from rag_hpc.errors import ConfigError

T = TypeVar("T")


def from_plain(schema: type[T], values: dict[str, Any]) -> T:
    """Return `schema` filled from plain values (names of enums as strings), checked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        found: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{schema.__name__}: {explain(error)}") from error
    return found


def to_plain(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON-able values, complete (unlike the part that names output)."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(  # type: ignore[return-value]
        OmegaConf.structured(config), resolve=True, enum_to_str=True
    )


def explain(error: Exception) -> str:
    """Return Hydra's message with the known keys where it gives none."""
    text = str(error).strip()
    cause = error.__cause__
    if cause is not None and str(cause).strip() not in text:
        text += f"\n{cause}"
    if "is not a ListConfig" in text:
        text += "\nA list is written in brackets: KEY=[VALUE,VALUE]"
    return text + "\nSee all keys: rag-hpc run --cfg job"
