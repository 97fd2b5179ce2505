"""Which questions are searched exactly beside a vector index: all of them, a sample that judges the index, or none.

`dense` names hits of exact search and `ann` those of the index; where only some questions have the first, the second
is what BM25 is fused with.
"""

from __future__ import annotations

import enum

import numpy as np

from rag_hpc.algo.types import I64
from rag_hpc.errors import ConfigError
from rag_hpc.stores.hits import Method

UP_TO = 50_000  # passages; a core reads so many for a question in the time that BM25 takes
SAMPLE = 200  # questions: at a recall@10 of 0.99 the interval is a point wide


class Exact(enum.Enum):
    """How many questions are searched exactly where there is a vector index; without one all are."""

    auto = "auto"  # always up to 50,000 passages, or where `dense` is handed on; else a sample
    always = "always"
    sample = "sample"
    never = "never"


def resolved(exact: Exact, num_passages: int, *, indexed: bool, method: Method = Method.fused) -> Exact:
    """Return what `auto` stands for; without an index it is `always`, whatever was asked for.

    method: the ranking that is handed on.
    """
    if not indexed:
        return Exact.always
    if exact is not Exact.auto:
        return exact
    return Exact.always if num_passages <= UP_TO or method is Method.dense else Exact.sample


def check_exact(exact: Exact, method: Method, *, indexed: bool) -> None:
    """Raise ConfigError where the ranking to hand on would be there for some questions only."""
    if indexed and method is Method.dense and exact in (Exact.sample, Exact.never):
        raise ConfigError(
            f"stage.retrieve.method=dense is exact search, and exact={exact.value} leaves it out; set "
            "stage.retrieve.method=ann, or exact=always"
        )


def sampled(num_questions: int) -> I64:
    """Return the rising numbers of the questions that judge the index: drawn with a seed, all where there are few."""
    drawn = np.random.default_rng(0).permutation(num_questions)[:SAMPLE]
    return np.sort(drawn).astype(np.int64)
