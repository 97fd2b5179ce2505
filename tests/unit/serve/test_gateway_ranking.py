"""What a gateway reads of what was found: a run's cross-encoder, as many hits as a request asks for, and its times."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fixedcorpus
import gateways
import httpx
import pytest
import servedrun
import stagerun
import trainset
from collector import Collector, collecting

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import MissingDependency
from rag_hpc.serve.gateway import traces

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(200)
DEPTH, LISTED = 8, 20  # hits that are scored, and those of a ranking


@pytest.fixture(scope="module")
def reranked(chain: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> stagerun.Chain:
    """The fixed chain, whose answers are made from a random cross-encoder's order."""
    folder = tmp_path_factory.mktemp("reranked")
    found = chain.fork(folder, tuple(n for n in chain.out if n not in ("generate", "evaluate")))
    model = trainset.write_model(folder / "cross", head=True)
    settings = {**chain.settings["generate"], "k": 4}
    found.settings = {**chain.settings, "rerank": {"model": str(model), "depth": DEPTH}, "generate": settings}
    return found.run("rerank", "generate")


@pytest.fixture(scope="module")
def ledger(reranked: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    known = "retrieve.queries"  # how well the encoder knows the passages weighs in the fused ranking
    found = servedrun.make_run(reranked, tmp_path_factory.mktemp("ranked"), known)
    assert main(["serve", "up", f"run={found.run_dir}", "workers=1", "serve.deadline_ms=20000"]) == 0
    yield found
    assert main(["serve", "down", f"run={found.run_dir}"]) == 0


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def http(ledger: Ledger, collector: Collector) -> Iterator[httpx.Client]:
    settings = ["gateway.search_ms=5000"]
    with contextlib.suppress(MissingDependency):
        traces.require()
        settings.append(f"gateway.otlp={collector.url}")
    with gateways.gateway(ledger, "ranking", *settings) as doors, gateways.owner(doors) as found:
        yield found


def order_of(found: dict[str, Any]) -> list[str]:
    return [passage["chunk_id"] for passage in found["passages"]]


def test_answers_are_the_batch_job_s_and_ask_s(
    reranked: stagerun.Chain, ledger: Ledger, http: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = reranked.table("generate", "answers.parquet")
    hits = [row for row in reranked.table("retrieve.search", "hits.parquet") if row["method"] == "fused"]
    found = {row["query_id"]: http.post("/v1/query", json={"question": row["question"]}).json() for row in rows}

    def same_head(row: dict[str, Any]) -> bool:
        head = {hit["chunk_id"] for hit in hits if hit["query_id"] == row["query_id"] and hit["rank"] <= DEPTH}
        body = {"question": row["question"], "candidates": 0, "k": DEPTH}
        return set(order_of(http.post("/v1/retrieve", json=body).json())) == head

    same = [row for row in rows if same_head(row)]
    assert len(same) >= len(rows) - 1  # a vector made among others may differ in its last bits, and neighbours swap
    for row in same:
        told = found[row["query_id"]]
        assert order_of(told) == json.loads(row["chunk_ids"]) and told["answer"] == row["answer"]
        assert [passage["ranks"]["reranked"]["rank"] for passage in told["passages"]] == [1, 2, 3, 4]
        steps = {"embed", "search", "rerank", "read", "generate", "queue"}
        assert not told["partial"] and steps <= {*told["timings_ms"]}
    fused = [passage["ranks"]["fused"]["rank"] for told in found.values() for passage in told["passages"]]
    assert max(fused) > 4  # the order is another
    row = rows[0]
    assert main(["ask", row["question"], "--json", f"run={ledger.run_dir}"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == found[row["query_id"]]["passages"]


def test_a_request_says_how_many_hits_are_scored_and_read_and_caches_tell_them_apart(http: httpx.Client) -> None:
    def ranks(ranking: str, **asked: Any) -> list[int]:
        body = {"question": fixedcorpus.ASKED["sorting"], **asked}
        reply = http.post("/v1/retrieve", json=body)
        assert reply.headers["x-cache"] == "miss", asked
        assert http.post("/v1/retrieve", json=body).headers["x-cache"] == "hit"
        return [passage["ranks"][ranking]["rank"] for passage in reply.json()["passages"]]

    assert ranks("fused", candidates=0) == [1, 2, 3, 4]
    assert sorted(ranks("fused", candidates=4)) == [1, 2, 3, 4]
    assert sorted(ranks("fused", candidates=6, k=6)) == [1, 2, 3, 4, 5, 6]
    assert ranks("reranked", k=DEPTH + 2) == [*range(1, DEPTH + 3)]  # no fewer are scored than read
    assert max(ranks("fused", candidates=LISTED, k=5)) > 5
    reply = http.post("/v1/query", json={"question": "x", "candidates": LISTED + 1})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_candidates")
    assert 'rag_step_seconds_count{step="rerank"}' in http.get("/metrics").text


def test_steps_are_traced(http: httpx.Client, collector: Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    assert http.post("/v1/query", json={"question": "What is traced?"}, headers={"X-Request-Id": "traced-1"})
    end = time.monotonic() + 20
    while b"traced-1" not in b"".join(collector.bodies):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert {"POST /v1/query", "embed", "search", "rerank", "read", "generate"} <= {
        one.name for one in collector.spans()
    }


def test_what_a_run_has_not_is_refused(
    gated: Ledger, ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for run, number, said in ((gated, 5, "pipeline=served"), (ledger, 5000, f"have {LISTED} hits")):
        words = [f"run={run.run_dir}", "gateway.name=wrong", f"gateway.candidates={number}"]
        assert main(["serve", "gateway", *words]) == 2
        assert said in capsys.readouterr().err
