"""From token vectors to one vector a text. Works on numpy arrays and on torch tensors alike.

Shapes: B texts, T tokens, D dimensions. Source: Reimers and Gurevych 2019, sec. 3.
"""

from __future__ import annotations

import enum
from typing import Any

from rag_hpc.errors import ConfigError


class Pooling(enum.Enum):
    """Ways to make one vector of many."""

    mean = "mean"
    cls = "cls"


def pool(hidden_BTD: Any, mask_BT: Any, how: Pooling) -> Any:
    """Return one vector a text, [B, D], of the kind of array that came in."""
    return masked_mean(hidden_BTD, mask_BT) if how is Pooling.mean else first_token(hidden_BTD)


def masked_mean(hidden_BTD: Any, mask_BT: Any) -> Any:
    """Return the mean over real tokens (mask 1), [B, D]; zeros for a text without any."""
    weights_BT1 = mask_BT[..., None]
    return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clip(1, None)


def first_token(hidden_BTD: Any) -> Any:
    """Return the vector of each text's first token, [B, D]."""
    return hidden_BTD[:, 0]


def normalize(vectors_BD: Any) -> Any:
    """Return the vectors at Euclidean length 1, so that inner product is cosine; a zero vector stays zero."""
    lengths_B = (vectors_BD * vectors_BD).sum(-1) ** 0.5
    return vectors_BD / lengths_B.clip(1e-12, None)[..., None]


def from_sentence_transformers(config: dict[str, Any]) -> Pooling:
    """Return the pooling that a `1_Pooling/config.json` asks for, in its old or new spelling."""
    prefix = "pooling_mode_"
    asked = {k.removeprefix(prefix) for k, on in config.items() if k.startswith(prefix) and on is True}
    named = config.get("pooling_mode")
    asked |= {named} if isinstance(named, str) else set(named or [])
    known = {"mean_tokens": Pooling.mean, "mean": Pooling.mean, "cls_token": Pooling.cls, "cls": Pooling.cls}
    if len(asked) != 1 or not asked <= set(known):
        raise ConfigError(f"encoder: the model pools by {sorted(asked) or 'nothing'}; known: mean, cls")
    return known[asked.pop()]
