"""generate: an answer for each question, each citation with its verdict, and "not found" where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stagerun
from chatserver import ChatServer

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.errors import InputError
from rag_hpc.generators import registry
from rag_hpc.generators.base import Answer
from rag_hpc.inline import make_stage, same_for_any_p


@pytest.fixture(scope="module")
def answers(chain: stagerun.Chain) -> dict[str, dict[str, Any]]:
    return {row["query_id"]: row for row in chain.table("generate", "answers.parquet")}


def test_every_question_has_one_row_in_order(chain: stagerun.Chain, answers: dict[str, dict[str, Any]]) -> None:
    asked = chain.table("retrieve.queries", "queries.parquet")
    assert list(answers) == [row["query_id"] for row in asked]
    assert [(row["question"], row["gold"]) for row in answers.values()] == [(r["text"], r["answers"]) for r in asked]


def test_passages_are_the_k_best_of_the_fused_list(chain: stagerun.Chain, answers: dict[str, dict[str, Any]]) -> None:
    fused = [row for row in chain.table("retrieve.search", "hits.parquet") if row["method"] == "fused"]
    for query_id, row in answers.items():
        best = [hit for hit in fused if hit["query_id"] == query_id][:3]
        assert json.loads(row["chunk_ids"]) == [hit["chunk_id"] for hit in best]
        assert json.loads(row["doc_ids"]) == [hit["doc_id"] for hit in best]


@pytest.mark.parametrize("method", ["dense", "bm25", "ann"])
def test_answers_are_made_from_the_ranking_that_was_chosen(method: str, chain: stagerun.Chain, tmp_path: Path) -> None:
    other = chain.fork(tmp_path, tuple(n for n in chain.out if n not in ("retrieve.search", "generate", "evaluate")))
    other.settings = {**chain.settings, "retrieve.search": {**chain.settings["retrieve.search"], "method": method}}
    other.run("retrieve.search", "generate", "evaluate")
    assert other.out["retrieve.search"].output_hash == chain.out["retrieve.search"].output_hash  # all are kept
    assert other.out["generate"].fingerprint != chain.out["generate"].fingerprint
    hits = other.table("retrieve.search", "ann.parquet" if method == "ann" else "hits.parquet")
    for row in other.table("generate", "answers.parquet"):
        best = [hit["chunk_id"] for hit in hits if (hit["query_id"], hit["method"]) == (row["query_id"], method)][:3]
        assert json.loads(row["chunk_ids"]) == best
    marked = {
        v["part"]: v["handed_on"]
        for p in other.out["evaluate"].files("metrics.json")
        if (v := json.loads(p.read_bytes()))
    }
    assert marked == {part: part == method for part in ("answers", "bm25", "dense", "fused", "ann")}


def test_answer_quotes_the_passage_that_it_cites(chain: stagerun.Chain, answers: dict[str, dict[str, Any]]) -> None:
    texts = {row["chunk_id"]: row["text"] for row in chain.table("chunk", "chunks.parquet")}
    row = answers["q2"]
    cited = json.loads(row["citations"])
    assert row["found"] and "lru_cache" in row["answer"] and cited
    for citation in cited:
        assert citation["reason"] == "quoted" and citation["supported"] is True
        passage = texts[json.loads(row["chunk_ids"])[citation["citation"] - 1]]
        words = passage[citation["start"] : citation["end"]]
        assert f"{' '.join(words.split())} [{citation['citation']}]" in row["answer"]


def test_question_that_no_passage_answers_is_not_found_and_cites_nothing(answers: dict[str, dict[str, Any]]) -> None:
    row = answers["nobody"]
    assert (row["found"], row["answer"], row["short"], row["citations"]) == (False, NOT_FOUND, NOT_FOUND, "[]")
    assert len(json.loads(row["doc_ids"])) == 3  # what was read is told all the same


def test_false_citations_of_a_generator_get_their_verdict(
    chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar:
        def generate(self, question: str, passages: list[Any]) -> Answer:
            text = f"{passages[0].text.split('.')[0]} [1]. Penguins invented astronomy [2]. The moon is cheese [9]."
            return Answer(text=text, citations=[1, 2, 9], found=True, short="penguins")

        def close(self) -> None:
            pass

    monkeypatch.setattr(registry, "get_generator", lambda *given: Liar())
    out = stagerun.run_alone("generate", chain.settings["generate"], chain.out, tmp_path)
    from rag_hpc.stores.tables import read_table

    for row in read_table(out / "answers.parquet").to_pylist():
        found = {c["citation"]: c["reason"] for c in json.loads(row["citations"])}
        assert found == {1: "quoted", 2: "weak", 9: "no-such-passage"}
        assert [c["supported"] for c in json.loads(row["citations"])] == [True, False, False]


def test_number_of_passages_is_the_config_s(chain: stagerun.Chain, tmp_path: Path) -> None:
    found = chain.again("generate", tmp_path, k=1)
    assert {len(json.loads(row["doc_ids"])) for row in stagerun.rows_of(found, "answers.parquet")} == {1}


def test_an_endpoint_is_asked_several_at_a_time_and_the_output_is_the_same_for_any_p(
    chain: stagerun.Chain, tmp_path: Path
) -> None:
    with ChatServer(delay_s=0.02) as server:
        stage = make_stage("generate", {**chain.settings["generate"], "generator": endpoint(server)})
        found = same_for_any_p(stage, chain.out, tmp_path)
        assert 1 < server.most_at_once <= 3
        assert len(server.bodies) == 3 * found.total("items_out") == 3 * found.total("items_in") > 0


def test_what_an_attempt_was_told_the_next_one_does_not_ask_again(chain: stagerun.Chain, tmp_path: Path) -> None:
    with ChatServer() as server:
        settings = {**chain.settings["generate"], "generator": {**endpoint(server), "concurrency": 1}}
        stage = make_stage("generate", settings)
        ctx = replace(stagerun.context(chain.out, tmp_path), carry=tmp_path / "carry")
        unit = stage.plan(chain.out, tmp_path)[0]
        stage.setup(ctx)
        server.statuses = [200, 200, 400]
        (tmp_path / "first").mkdir()
        with pytest.raises(InputError, match="HTTP 400"):
            stage.run(unit, tmp_path / "first", ctx)
        (tmp_path / "second").mkdir()
        counts = stage.run(unit, tmp_path / "second", ctx)
        assert counts.timings["replayed"] == 2.0 and "replayed" not in counts.extra
        assert len(server.bodies) == counts.items_out + 1


def test_passages_are_compressed_alike_by_any_number_of_workers(chain: stagerun.Chain, tmp_path: Path) -> None:
    with ChatServer() as server:
        compress = {"near": 0.95, "sentences": 4, "summarise_above": 20}
        settings = {**chain.settings["generate"], "generator": {**endpoint(server), "compress": compress}}
        stage = make_stage("generate", settings)
        found = same_for_any_p(stage, chain.out, tmp_path, ps=(1, 2))
        assert stage.plan(chain.out, tmp_path)[0].inputs["compress"] == compress
    extra, rows = found.extra(), stagerun.rows_of(found, "answers.parquet")
    assert extra["sentences_left_out"] > 0 and extra["passages_summarised"] > 0
    checks = [check for row in rows for check in json.loads(row["citations"])]
    assert checks and all(check["supported"] for check in checks)  # by the whole passages


def endpoint(server: ChatServer) -> dict[str, Any]:
    return {"name": "openai", "base_url": server.url, "model": "m", "concurrency": 3}
