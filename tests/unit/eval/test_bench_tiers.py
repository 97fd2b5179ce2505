"""The tier benchmark: what a plan foretells beside what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.retrieve import tiers
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.tier import planned, slowest


def size(documents: int, seconds: float) -> tiers.Size:
    return tiers.Size(
        documents=documents, passages=8 * documents, held_bytes=1000 * documents, seconds=(0.5 * seconds, 1.5 * seconds)
    )


def test_a_linear_search_is_foretold_and_another_misses_the_bar() -> None:
    small = [size(100, 0.011), size(200, 0.012)]
    plan = planned(
        [tiers.pilot_of(one) for one in small], Prices(source="a test"),
        documents=1000, qps=10, cores=2, mem_gb=8, busy=0.6,
    )  # fmt: skip
    assert plan.query_s == pytest.approx(0.020)
    query, held, _ = tiers.rows("small", plan, small, size(1000, 0.020))
    assert query.ratio == pytest.approx(1.0) and query.met and held.ratio == pytest.approx(1.0)
    slow = tiers.rows("small", plan, small, size(1000, 0.030))[0]
    assert slow.ratio == pytest.approx(1.5) and slow.met is False


def test_a_replay_of_exponential_services_is_the_queue_s_own_p95() -> None:
    services = tuple((-0.02 * np.log1p(-(np.arange(2000) + 0.5) / 2000)).tolist())
    assert tiers.replayed(services, 60.0, 2) == pytest.approx(slowest(60.0, 0.02, 2), rel=0.05)


def test_what_is_no_tier_or_has_no_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(ConfigError, match="known: small"):
        tiers.run({"tier": "tiny"})
    with pytest.raises(InputError, match="RAG_HPC_DATA"):
        tiers.run({})
