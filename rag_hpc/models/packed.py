"""Texts one after another, without padding, as a forward pass takes them.

Shapes: T tokens of all texts of a batch, B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_hpc.algo.types import I32, I64


@dataclass(frozen=True)
class Packed:
    """Texts one after another, none of them empty."""

    ids_T: I32
    lengths_B: I64
    types_T: I32 | None = None  # of pairs

    @classmethod
    def of(cls, texts: Sequence[I32], types: Sequence[I32] | None = None) -> Packed:
        """Return the texts packed."""
        lengths_B = np.array([len(ids) for ids in texts], dtype=np.int64)
        return cls(np.concatenate(texts), lengths_B, np.concatenate(types) if types else None)

    @property
    def first_B(self) -> I64:
        """Where each text begins."""
        return np.cumsum(self.lengths_B) - self.lengths_B


def bits_of(halves: Any) -> Any:
    """Return a bfloat16 tensor as numpy's int16, the same memory."""
    import torch

    return halves.view(torch.int16).numpy()
