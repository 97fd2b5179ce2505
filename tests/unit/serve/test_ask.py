"""`rag-hpc ask` searches as the run did, answers, and says which citations hold."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixedcorpus
import numpy as np
import pytest
import stagerun
from accounts import Account

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.cli import main, parse
from rag_hpc.core.ledger import Ledger, Request
from rag_hpc.core.plan import plan_path
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.generators import registry
from rag_hpc.generators.base import Answer
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.models import encoder
from rag_hpc.search import searcher
from rag_hpc.search.answer import Asker
from rag_hpc.serve import ask, page
from rag_hpc.stores.questions import read_question_vectors, read_questions


def _answers(chain: stagerun.Chain, folder: Path, *questions: str, **settings: Any) -> list[dict[str, Any]]:
    asker = Asker(chain.out, {**chain.settings, **settings}, GeneratorConfig(), folder)
    return [ask.plain("demo", question, asker.answer(question)) for question in questions]


def test_questions_of_the_run_get_the_run_s_passages_and_answers(chain: stagerun.Chain, tmp_path: Path) -> None:
    rows = {row["query_id"]: row for row in chain.table("generate", "answers.parquet")}
    asked = [rows[query_id] for query_id in ("q0", "q5", "nobody")]
    for row, found in zip(asked, _answers(chain, tmp_path, *(row["question"] for row in asked)), strict=True):
        assert [p["chunk_id"] for p in found["passages"]] == json.loads(row["chunk_ids"])
        assert (found["answer"], found["short"], found["found"]) == (row["answer"], row["short"], row["found"])
        cited = json.loads(row["citations"])
        assert [{key: c[key] for key in cited[0]} for c in found["citations"]] == cited


def test_a_question_has_the_vector_that_it_has_in_the_run(chain: stagerun.Chain, tmp_path: Path) -> None:
    asker = Asker(chain.out, chain.settings, GeneratorConfig(), tmp_path)
    wanted_QD = read_question_vectors(chain.out["retrieve.queries"]).astype(np.float32)
    found_QD = np.concatenate([asker.embed(row["text"]) for row in read_questions(chain.out["retrieve.queries"])])
    assert np.abs(found_QD - wanted_QD).max() < 5e-4  # of another arithmetic, some 1e-3


def test_a_run_that_fused_its_index_s_hits_is_asked_by_its_index(
    chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**chain.settings["retrieve.search"], "exact": "never", "num_probes": 1}
    out = chain.again("retrieve.search", tmp_path / "run", exact="never", num_probes=1)
    rows = {row["query_id"]: row for row in chain.table("retrieve.queries", "queries.parquet")}
    fused = [row for row in stagerun.rows_of(out, "hits.parquet") if row["method"] == "fused"]
    monkeypatch.setattr(searcher, "exact_topk", None)  # all vectors are never read
    found = _answers(chain, tmp_path, *(rows[q]["text"] for q in ("q0", "q5")), **{"retrieve.search": settings})
    for query_id, answered in zip(("q0", "q5"), found, strict=True):
        ids = [p["chunk_id"] for p in answered["passages"]]
        assert ids == [row["chunk_id"] for row in fused if row["query_id"] == query_id][: len(ids)] and ids
        assert set(answered["passages"][0]["ranks"]) <= {"bm25", "ann", "fused"}


def test_only_passages_that_a_filter_lets_through_are_read(chain: stagerun.Chain, tmp_path: Path) -> None:
    settings = {**chain.settings["retrieve.search"], "filter": "title in ['Caching note 2', 'Caching note 10']"}
    (found,) = _answers(chain, tmp_path, fixedcorpus.ASKED["caching"], **{"retrieve.search": settings})
    assert found["passages"] and {p["title"] for p in found["passages"]} <= {"Caching note 2", "Caching note 10"}


def test_citations_lead_to_the_words_in_the_passage_and_in_the_document(chain: stagerun.Chain, tmp_path: Path) -> None:
    documents = {row["doc_id"]: row["text"] for row in chain.table("dedup.drop", "documents.parquet")}
    (found,) = _answers(chain, tmp_path, fixedcorpus.ASKED["caching"])
    assert found["citations"] and 0.5 < found["score"] <= 1
    for cited in found["citations"]:
        passage = found["passages"][cited["citation"] - 1]
        assert passage["cited"] and passage["verdict"] == cited["reason"] == "quoted" and 0 < cited["score"] <= 1
        words = passage["text"][cited["start"] : cited["end"]]
        assert words == documents[passage["doc_id"]][cited["doc_start"] : cited["doc_end"]]
        assert " ".join(words.split()) == cited["sentence"] and cited["sentence"] in found["answer"]


def test_prefix_of_the_queries_goes_before_the_question(
    chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = encoder.Encoder.encode

    def watch(self: encoder.Encoder, texts: Any, *args: Any, **more: Any) -> Any:
        seen.append(texts[0])
        return real(self, texts, *args, **more)

    monkeypatch.setattr(encoder.Encoder, "encode", watch)
    queries = {**chain.settings["retrieve.queries"], "prefix": "query: "}
    _answers(chain, tmp_path, "What is a deque?", **{"retrieve.queries": queries})
    assert seen == ["query: What is a deque?"] * 2  # to search, and to read sentences


def test_citation_holds_only_where_every_sentence_of_it_does(
    chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar:
        def generate(self, question: str, passages: list[Any]) -> Answer:
            quotes = [passage.text.split(".")[0] for passage in passages]
            words = quotes[2].split()
            text = (
                f"Penguins invented astronomy [1]. {quotes[0]} [1]. {quotes[1]} [2]. The {words[-1]} {words[-2]} [3]."
            )
            return Answer(text=text, citations=[1, 2, 3], found=True)

        def close(self) -> None:
            pass

    monkeypatch.setattr(registry, "get_generator", lambda *given: Liar())
    (found,) = _answers(chain, tmp_path, fixedcorpus.ASKED["sorting"], generate={"k": 4})
    assert [p["verdict"] for p in found["passages"]] == ["not supported", "quoted", "supported", None]


def test_command_prints_the_answer_and_what_it_quotes(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.run_dir.parents[2])
    assert ask.ask(parse(["ask", fixedcorpus.ASKED["caching"], "run=demo"])) == 0
    answer, *cited, hint = capsys.readouterr().out.splitlines()
    assert "lru_cache" in answer and hint.endswith("rag-hpc page ID run=demo")
    assert cited[0].startswith("[1] ") and all(line.endswith("(quoted)") for line in cited)
    assert ask.ask(parse(["ask", *fixedcorpus.ASKED["caching"].split(), "--json"])) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["run"] == "demo" and value["question"] == fixedcorpus.ASKED["caching"] and len(value["passages"]) == 3
    assert page.page(parse(["page", value["passages"][0]["doc_id"]])) == 0
    title, _, blank, text = capsys.readouterr().out.split("\n", 3)
    assert title == value["passages"][0]["title"] and not blank and value["passages"][0]["text"] in text


def test_each_ranking_s_rank_and_score_of_a_passage_are_told(
    run: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.run_dir.parents[2])
    question = fixedcorpus.ASKED["caching"]
    assert ask.ask(parse(["ask", question, "--json"])) == 0
    passages = json.loads(capsys.readouterr().out)["passages"]
    fused = [passage["ranks"]["fused"] for passage in passages]
    assert [place["rank"] for place in fused] == list(range(1, len(passages) + 1))
    assert [place["score"] for place in fused] == sorted((place["score"] for place in fused), reverse=True)
    assert all({"bm25", "dense"} & set(passage["ranks"]) for passage in passages)
    assert ask.ask(parse(["ask", question, "--explain"])) == 0
    shown = capsys.readouterr().out
    assert "fused: rank, score" in shown and f"1, {fused[0]['score']:.3f}" in shown


def test_a_file_of_questions_gives_a_line_of_json_each(
    run: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"run={run.run_dir}"
    rows = [{"id": 7, "question": fixedcorpus.ASKED["caching"]}, {"text": "Zyxwv qpomn?"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert ask.ask(parse(["ask", "--file", str(tmp_path / "q.jsonl"), where])) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row.get("id"), row["found"]) for row in found] == [("7", True), (None, False)]
    (tmp_path / "q.txt").write_text(f"{fixedcorpus.ASKED['caching']}\n")
    assert ask.ask(parse(["ask", "--file", str(tmp_path / "q.txt"), where])) == 0
    assert json.loads(capsys.readouterr().out) == {key: found[0][key] for key in found[0] if key != "id"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", '{"question": "a"}\n{"question": 3}\n', "q.jsonl:2: a `question` or `text` is needed"),
        ("q.jsonl", "{", "q.jsonl:1: is no JSON"),
        ("q.txt", " \n", "holds no question"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_files_without_questions_are_named_with_the_line(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        ask.read_questions(str(tmp_path / name))


def test_lines_that_are_piped_in_are_answered_one_by_one(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{fixedcorpus.ASKED['caching']}\n\nZyxwv qpomn?\n"))
    assert ask.ask(parse(["ask", f"run={run.run_dir}"])) == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith(f"Q: {fixedcorpus.ASKED['caching']}\n") and "lru_cache" in first
    assert second == f"Q: Zyxwv qpomn?\n{NOT_FOUND}"


def test_the_prompt_stays_until_the_input_ends(
    run: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[Any] = []
    real = Asker.__init__
    monkeypatch.setattr(Asker, "__init__", lambda self, *given: (loaded.append(1), real(self, *given))[1])
    typed = iter([fixedcorpus.ASKED["caching"], "", "Zyxwv qpomn?"])

    def type_in(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_in)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert ask.ask(parse(["ask", f"run={run.run_dir}"])) == 0
    said = capsys.readouterr()
    assert "lru_cache" in said.out and NOT_FOUND in said.out and "Ctrl-D ends" in said.err and loaded == [1]


class Endpoint(BaseHTTPRequestHandler):
    """Answers everything, and notes down which key and which model came."""

    seen: list[tuple[str | None, str]]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Authorization"], asked["model"]))
        body = json.dumps({"choices": [{"message": {"content": "It is said [1]."}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[tuple[str | None, str]]]]:
    """Yield an endpoint's address and what it has seen."""
    handler = type("Handler", (Endpoint,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", handler.seen
        server.shutdown()
        thread.join()


def test_a_run_never_says_where_a_question_or_a_key_is_sent(
    run: Ledger,
    stranger: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another's run, that we may read, names its owner's address and our key's file and variable."""
    (tmp_path / "key").write_text("sk-mine-1\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("MY_KEY", "sk-mine-2")
    question = fixedcorpus.ASKED["caching"]
    with listening() as (theirs, stolen), listening() as (ours, seen):
        path = run.folder(1) / "submission.json"
        value = json.loads(path.read_bytes())
        del value["seal"]  # a stranger would make a new one
        for key in ({"api_key_file": str(tmp_path / "key")}, {"api_key_env": "MY_KEY"}):
            value["settings"]["generate"]["generator"] = {"name": "openai", "base_url": theirs, "model": "big", **key}
            path.write_text(json.dumps(value))
            for each in (run.run_dir, *run.run_dir.rglob("*")):
                if not each.is_symlink():
                    os.chown(each, stranger.uid, os.getegid())
            asked = ["ask", question, f"run={run.run_dir}", "cluster.share=group"]
            assert main(asked) == 2
            said = capsys.readouterr().err
            assert "the run's model was big" in said and "generator=extractive, which needs no model" in said
            assert main([*asked, "generator=extractive"]) == 0
            assert "lru_cache" in capsys.readouterr().out
            assert main([*asked, f"generator.base_url={ours}", "generator.model=small"]) == 0
            assert main([*asked, "generator=openai", f"generator.base_url={ours}", "generator.model=small"]) == 0
            more = [f"generator.base_url={ours}", "generator.model=m", "generator.api_key_env=MY_KEY"]
            assert main([*asked, *more]) == 0
            assert "It is said [1]." in capsys.readouterr().out
    assert stolen == []
    assert seen == 2 * [(None, "small"), (None, "small"), ("Bearer sk-mine-2", "m")]


def test_the_askers_endpoint_may_stand_in_a_file_of_their_own(
    run: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site" / "generator"
    site.mkdir(parents=True)
    with listening() as (ours, seen):
        (site / "lab.yaml").write_text(f"name: openai\nbase_url: {ours}\nmodel: lab-7b\n")
        words = ["ask", fixedcorpus.ASKED["caching"], f"run={run.run_dir}", "generator=lab"]
        assert main([*words, "--config-dir", str(tmp_path / "site")]) == 0
        assert seen == [(None, "lab-7b")]
        assert main(words) == 2
        assert "generator=lab: no such file in conf/generator" in capsys.readouterr().err
        assert main([*words[:-1], "generator.base_ulr=x"]) == 2
        assert "base_ulr" in capsys.readouterr().err


def test_run_without_indexes_says_how_to_go_on(run: Ledger) -> None:
    plan_path(run.run_dir, 1, "encode").unlink()
    with pytest.raises(IncompleteError, match=r"not indexed yet; run: rag-hpc retry run=/.*/demo"):
        ask.manifests(run.run_dir, run.request())


def test_no_question_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(ConfigError, match="give a question"):
        ask.ask(parse(["ask", "run=demo"]))
    with pytest.raises(ConfigError, match="one of the two"):
        ask.ask(parse(["ask", "What?", "--file", "q.txt"]))


def test_a_page_that_the_run_lacks_is_named_with_those_that_look_alike(run: Ledger) -> None:
    with pytest.raises(InputError, match=r"page d0: run=demo has no page .* did you mean d00 or d01 or d02\?"):
        page.page(parse(["page", "d0", f"run={run.run_dir}"]))


def test_run_that_was_never_to_be_indexed_is_not_sent_to_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "results" / "runs" / "corpus")
    ledger.create({})
    ledger.submit(
        Request(
            run="corpus", number=0, stages=["crawl", "clean", "chunk"], settings={}, workers=1, cluster={"root": None}
        )
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"run=corpus: its pipeline has no lexical, .*with pipeline=cluster"):
        ask.ask(parse(["ask", "What?", "run=corpus"]))
