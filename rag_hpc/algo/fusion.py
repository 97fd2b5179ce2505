"""Reciprocal rank fusion of ranked lists. Source: Cormack, Clarke and Buettcher 2009."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.errors import ConfigError


def rrf(
    rankings: Sequence[npt.NDArray[Any]], depth: int, *, k: int = 60
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return (ids, scores) of the `depth` best by the sum over rankings of 1 / (k + rank), ranks from 1.

    Each ranking holds ids, best first, of which `depth` are read; -1 marks a missing hit, and an id's second appearance
    in one ranking is ignored. Ties by id. Sums are exactly rounded, so the order of the rankings does not matter.
    """
    if k < 0 or depth < 1:
        raise ConfigError(f"fusion: k={k}, depth={depth}: k must be at least 0 and depth at least 1; try k=60")
    parts: dict[int, list[float]] = {}
    for ranking in rankings:
        seen: set[int] = set()
        for rank, one in enumerate(np.asarray(ranking)[:depth].tolist(), start=1):
            if one >= 0 and one not in seen:
                seen.add(one)
                parts.setdefault(int(one), []).append(1.0 / (k + rank))
    ordered = sorted((-math.fsum(values), one) for one, values in parts.items())[:depth]
    ids = np.array([one for _, one in ordered], dtype=np.int64)
    return ids, np.array([-score for score, _ in ordered], dtype=np.float64)
