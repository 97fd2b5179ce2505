"""The ways to make one vector of a text's token vectors, and their names. Source: Reimers and Gurevych 2019, sec. 3."""

from __future__ import annotations

import enum
from typing import Any

from rag_hpc.errors import ConfigError


class Pooling(enum.Enum):
    """Ways to make one vector of many."""

    mean = "mean"
    cls = "cls"
    last = "lasttoken"


def from_sentence_transformers(config: dict[str, Any]) -> Pooling:
    """Return the pooling that a `1_Pooling/config.json` asks for, in its old or new spelling."""
    prefix = "pooling_mode_"
    asked = {k.removeprefix(prefix) for k, on in config.items() if k.startswith(prefix) and on is True}
    named = config.get("pooling_mode")
    asked |= {named} if isinstance(named, str) else set(named or [])
    asked = {name.removesuffix("_tokens").removesuffix("_token") for name in asked}
    known = {how.value: how for how in Pooling}
    if len(asked) != 1 or not asked <= set(known):
        raise ConfigError(f"encoder: the model pools by {sorted(asked) or 'nothing'}; known: {', '.join(known)}")
    if config.get("include_prompt") is False:
        raise ConfigError("encoder: the model leaves its prompt out of the pooling, which is not done here")
    return known[asked.pop()]
