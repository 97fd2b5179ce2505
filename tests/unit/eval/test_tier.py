"""What serving a tier takes: queues beside simulated ones, sizes and costs by hand."""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest

from rag_hpc import cli
from rag_hpc.errors import ConfigError
from rag_hpc.eval import tier
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.results import Results

PRICES = Prices(source="a test", core_hour=0.01, kwh=0.5, core_watts=10.0, pue=1.2)
PILOT = tier.Pilot(
    run="pilot",
    documents=1_000,
    passages=5_000,
    held_bytes=50_000_000,
    encode_s=0.004,
    search_s=0.010,
    build_s=2.0,
    build_cost=0.001,
    cores=8,
    memory_bytes=32_000_000_000,
)


def simulated(rate: float, service_s: float, servers: int, shards: int, num: int = 60_000) -> float:
    """Return the 95th percentile of the time until every shard has answered, first come first served."""
    rng = np.random.default_rng(9)
    arrivals = np.cumsum(rng.exponential(1 / rate, num))
    done = np.zeros((shards, num))
    for shard in range(shards):
        free = [0.0] * servers
        for number, (at, takes) in enumerate(zip(arrivals, rng.exponential(service_s, num), strict=True)):
            done[shard, number] = max(at, free[0]) + takes
            heapq.heapreplace(free, done[shard, number])
    return float(np.quantile(done.max(axis=0) - arrivals, 0.95))


def test_one_server_has_the_p95_of_the_book() -> None:
    assert tier.slowest(5.0, 0.1, 1) == pytest.approx(-math.log(0.05) / (10 - 5), rel=1e-6)


@pytest.mark.parametrize(("rate", "servers", "shards"), [(30.0, 4, 1), (12.0, 2, 1), (10.0, 2, 1), (5.0, 2, 3)])
def test_p95_is_that_of_a_simulated_queue(rate: float, servers: int, shards: int) -> None:
    assert tier.slowest(rate, 0.1, servers, shards) == pytest.approx(simulated(rate, 0.1, servers, shards), rel=0.06)


def test_more_than_can_be_served_is_refused() -> None:
    with pytest.raises(ConfigError, match="need more than 2 cores"):
        tier.slowest(20.0, 0.1, 2)


def test_search_grows_by_a_line_through_the_pilots() -> None:
    assert tier.line([(100, 0.2), (300, 0.4)]) == pytest.approx((0.1, 0.001))
    assert tier.line([(100, 0.2)]) == pytest.approx((0.0, 0.002))
    assert tier.line([(100, 0.2), (100, 0.4)]) == pytest.approx((0.0, 0.003))
    assert tier.line([(100, 0.3), (300, 0.1)]) == pytest.approx((0.2, 0.0))  # no faster with more
    assert tier.line([(100, 0.1), (200, 0.4)])[0] == 0.0


def test_nodes_memory_and_money_by_hand() -> None:
    found = tier.planned([PILOT], PRICES, documents=10_000, qps=100.0, cores=8, mem_gb=1.0, busy=0.5)
    assert (found.passages, found.held_bytes, found.shards) == (50_000, 500_000_000, 1)
    assert found.query_s == pytest.approx(0.104)
    assert found.copies == found.nodes == 3 and found.busy == pytest.approx(10.4 / 24)  # 10.4 cores, half of 8 each
    hours = 730.0
    assert found.month_cost == pytest.approx(3 * 8 * 0.01 * hours + 10.4 * 10 * 1.2 / 1000 * hours * 0.5)
    assert (found.build_core_h, found.build_cost) == pytest.approx((2.0 * 10_000 / 3600, 10.0))
    assert found.p95_s == pytest.approx(tier.slowest(100 / 3, 0.104, 8))


def test_an_index_larger_than_a_node_is_divided_and_asked_at_once() -> None:
    found = tier.planned([PILOT], PRICES, documents=100_000, qps=2.0, cores=8, mem_gb=2.0, busy=0.5)
    assert (found.held_bytes, found.shards, found.copies) == (5_000_000_000, 4, 1)  # 1.6 GB of each node
    assert found.p95_s == pytest.approx(tier.slowest(2.0, 0.004 + 1.0 / 4, 8, 4))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pilots")
    fake_run.build(root, fake_run.Shape(name="pilot"))
    return root


def test_rates_are_those_of_the_records(root: Path) -> None:
    run = Results(root / "pilot")
    found = tier.pilot_of(run, PRICES)
    queries = run.manifests["retrieve.queries"].total("items_out")
    cpu_s: dict[str, Any] = {step: sum(row["cpu_s"] for row in run.records(step)) for step in run.stages}
    assert found.search_s == pytest.approx(cpu_s["retrieve.search"] / queries)
    assert found.encode_s == pytest.approx(cpu_s["retrieve.queries"] / queries)
    before = [step for step in run.stages if step.split(".")[0] not in ("retrieve", "generate", "evaluate")]
    assert found.build_s == pytest.approx(sum(cpu_s[step] for step in before) / found.documents)
    files = [path for step in ("lexical", "vectors.build") for path in run.manifests[step].files("index.npy")]
    assert found.held_bytes == sum(path.stat().st_size for path in files)


def test_a_tier_is_told_to_people_and_scripts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "tier=small", "run=pilot", f"cluster.root={root}", "documents=200", "cores=64", "cost.source=here"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tier    small") and "an upper bound" in shown and "prices example: here" in shown
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["documents"] == 200 and told["qps"] == 10 and told["nodes"] == told["shards"] * told["copies"]
    assert set(told) >= {field.name for field in dataclasses.fields(tier.Plan)}


def test_a_run_of_before_hardware_was_recorded_needs_it_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tier.pilot_of
    monkeypatch.setattr(tier, "pilot_of", lambda *given: dataclasses.replace(old(*given), cores=0, memory_bytes=0))
    words = ["plan", "tier=small", "run=pilot", f"cluster.root={root}", "documents=200"]
    assert cli.main(words) == 1
    assert "its records tell no hardware; say what a node has: cores=32 mem_gb=128" in capsys.readouterr().err
    assert cli.main([*words, "cores=64", "mem_gb=128"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tier=tiny", "run=pilot"), "known: small, medium, large, enterprise"),
        (("tier=small",), "name finished runs, best of two sizes"),
        (("tier=small", "run=pilot"), "do not tell how search over 10000 grows; name two runs"),
        (("tier=small", "run=pilot", "workers=2"), "it does not look at workers=2"),
        (("tier=small", "run=pilot", "busy=1.5"), "busy=1.5: a number from 0.01 to 0.95"),
        (("--json",), "plan --json is for tier="),
    ],
)
def test_what_cannot_be_planned_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert cli.main(["plan", *words, f"cluster.root={root}"]) in (1, 2)
    assert said in capsys.readouterr().err
