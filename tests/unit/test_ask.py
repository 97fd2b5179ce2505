"""`rag-hpc ask` searches as the run did, answers, and says which citations hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fixedcorpus
import numpy as np
import pytest
import stagerun

from rag_hpc import ask, encoder
from rag_hpc.algo.answers import NOT_FOUND
from rag_hpc.cli import parse
from rag_hpc.core.plan import plan_path, read_plan, write_plan
from rag_hpc.core.planner import Submission, make_plan
from rag_hpc.errors import ConfigError, IncompleteError
from rag_hpc.generators import registry
from rag_hpc.generators.base import Answer
from rag_hpc.launchers.ledger import Ledger, Request
from rag_hpc.stages.registry import make_stage


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, tmp_path: Path) -> Iterator[Ledger]:
    """A run's folder whose stage folders are the chain's."""
    ledger = Ledger(tmp_path / "results" / "runs" / "demo")
    ledger.create({})
    for found in chain.out.values():
        (ledger.run_dir / found.folder.name).symlink_to(found.folder)
    ledger.submit(Request(run="demo", number=0, stages=list(chain.settings), settings=chain.settings, workers=1,
                          cluster={"root": None}))
    for name in ask.NEEDED:
        inputs = {n: m for n, m in chain.out.items() if n in make_stage(name, {}).needs}
        plan = make_plan(make_stage(name, chain.settings[name]), chain.settings[name], inputs, chain.run_dir,
                         Submission(run="demo", number=1, workers=1))
        write_plan(plan_path(ledger.run_dir, 1, name), plan)
        assert (ledger.run_dir / read_plan(plan_path(ledger.run_dir, 1, name)).folder).is_dir()
    yield ledger


def _answer(chain: stagerun.Chain, question: str, **settings: Any) -> dict[str, Any]:
    return ask.answer(chain.run_dir, question, chain.out, {**chain.settings, **settings})


def test_questions_of_the_run_get_the_run_s_passages_and_answers(chain: stagerun.Chain) -> None:
    rows = {row["query_id"]: row for row in chain.table("generate", "answers.parquet")}
    for query_id in ("q0", "q5", "nobody"):
        row = rows[query_id]
        found = _answer(chain, row["question"])
        assert [p["chunk_id"] for p in found["passages"]] == json.loads(row["chunk_ids"])
        assert (found["answer"], found["short"], found["found"]) == (row["answer"], row["short"], row["found"])
        cited = {c["citation"]: c["supported"] for c in json.loads(row["citations"])}
        assert {p["number"]: p["supported"] for p in found["passages"] if p["cited"]} == cited


def test_prefix_of_the_queries_goes_before_the_question(
    chain: stagerun.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = encoder.Encoder.encode

    def watch(self: encoder.Encoder, texts: Any, *args: Any, **more: Any) -> Any:
        seen.append((list(texts), more.get("out")))
        return real(self, texts, *args, **more)

    monkeypatch.setattr(encoder.Encoder, "encode", watch)
    _answer(chain, "What is it?", **{"retrieve.queries": {**chain.settings["retrieve.queries"], "prefix": "query: "}})
    assert seen == [(["query: What is it?"], np.float16)]


def test_citation_holds_only_where_every_sentence_of_it_does(
    chain: stagerun.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar:
        def generate(self, question: str, passages: list[Any]) -> Answer:
            quotes = [passage.text.split(".")[0] for passage in passages]
            text = f"Penguins invented astronomy [1]. {quotes[0]} [1]. {quotes[1]} [2]. The moon is cheese [3]."
            return Answer(text=text, citations=[1, 2, 3], found=True)

    monkeypatch.setattr(registry, "get_generator", lambda config: Liar())
    found = _answer(chain, fixedcorpus.ASKED["sorting"], generate={"k": 4})
    assert [(p["cited"], p["supported"]) for p in found["passages"]] == [
        (True, False), (True, True), (True, False), (False, False)]


def test_command_prints_the_answer_and_its_verified_citations(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.run_dir.parents[2])
    assert ask.ask(parse(["ask", fixedcorpus.ASKED["caching"], "run=demo"])) == 0
    short, answer, cited = capsys.readouterr().out.splitlines()
    assert short == "lru_cache:" and "lru_cache" in answer
    assert cited.startswith("[1] ") and cited.endswith("(verified)")
    assert ask.ask(parse(["ask", *fixedcorpus.ASKED["caching"].split(), "--json"])) == 0
    value = json.loads(capsys.readouterr().out)
    assert ask.ask(parse(["ask", "Zyxwv qpomn?"])) == 0
    assert capsys.readouterr().out == f"{NOT_FOUND}\n"
    assert value["run"] == "demo" and value["question"] == fixedcorpus.ASKED["caching"] and len(value["passages"]) == 3


def test_run_without_indexes_says_how_to_go_on(run: Ledger) -> None:
    plan_path(run.run_dir, 1, "encode").unlink()
    with pytest.raises(IncompleteError, match=r"not indexed yet; run: rag-hpc retry run=/.*/demo"):
        ask.manifests(run.run_dir, 1)


def test_no_question_is_wrong_usage() -> None:
    with pytest.raises(ConfigError, match="give a question"):
        ask.ask(parse(["ask", "run=demo"]))


def test_run_that_was_never_to_be_indexed_is_not_sent_to_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "results" / "runs" / "corpus")
    ledger.create({})
    ledger.submit(Request(run="corpus", number=0, stages=["crawl", "clean", "chunk"], settings={}, workers=1,
                          cluster={"root": None}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"run=corpus: its pipeline has no lexical, .*with pipeline=cluster"):
        ask.ask(parse(["ask", "What?", "run=corpus"]))
