"""Generators: quotations that can be verified, an honest "not found", and an endpoint that fails in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.algo.answers import NOT_FOUND
from rag_hpc.algo.cite import verify_citations
from rag_hpc.errors import ClusterError, InputError
from rag_hpc.generators.base import Passage
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.registry import GENERATORS, get_generator


def passage(text: str, title: str = "") -> Passage:
    return Passage(chunk_id="c", doc_id="d", title=title, text=text)


HEAPQ = passage(
    "heapq.nlargest(n, iterable, key=None)\n\nFind the n largest elements in a dataset.\n\n"
    "heapq.merge(*iterables, key=None, reverse=False)\n\nMerge multiple sorted inputs into a single sorted output.",
    "heapq",
)
SLURM = passage("The default time limit is 240 minutes. Longer jobs are killed. Use --time to ask for more.", "limits")
FISH = passage("Fish live in water. They have gills.", "fish")


class TestExtractive:
    generator = ExtractiveGenerator()

    def test_answer_quotes_a_sentence_and_its_citation_verifies(self) -> None:
        answer = self.generator.generate("What is the default time limit?", [FISH, SLURM])
        assert answer.text == "The default time limit is 240 minutes. [2]"
        assert (answer.citations, answer.found) == ([2], True)
        assert [c.supported for c in verify_citations(answer.text, [FISH, SLURM])] == [True]

    def test_name_of_the_entry_is_the_short_answer(self) -> None:
        answer = self.generator.generate("How do I find the largest elements of a dataset?", [FISH, HEAPQ])
        assert answer.short == "nlargest" and answer.citations == [2]

    def test_number_or_option_is_short_where_it_is_asked_for(self) -> None:
        assert self.generator.generate("How many minutes is the default limit?", [SLURM]).short == "240"
        assert self.generator.generate("What do I use to ask for more?", [SLURM]).short == "--time"

    def test_nothing_to_quote_is_not_found(self) -> None:
        for question, passages in (("Who painted Guernica?", [FISH, SLURM]), ("Fish?", []), ("what is it", [FISH])):
            answer = self.generator.generate(question, passages)
            assert (answer.text, answer.found, answer.citations) == (NOT_FOUND, False, [])
        assert not self.generator.generate("Fish?", [passage("  \n ")]).found

    def test_second_sentence_joins_only_when_it_adds_a_word_of_the_question(self) -> None:
        both = passage("Cats eat mice daily. Dogs chase cats outside. Birds sing.")
        question = "Which mice do cats eat, and where do dogs chase cats?"
        assert self.generator.generate(question, [both]).text.count("[1]") == 2
        assert self.generator.generate("What do cats eat daily?", [both]).text == "Cats eat mice daily. [1]"

    def test_ties_go_to_the_first_passage(self) -> None:
        assert self.generator.generate("Where do fish live?", [FISH, FISH]).citations == [1]

    def test_wrapped_lines_are_quoted_as_one(self) -> None:
        wrapped = passage("The scratch file system is cleaned every ninety days by\na job of the centre.")
        answer = self.generator.generate("When is the scratch file system cleaned?", [wrapped])
        assert answer.text == "The scratch file system is cleaned every ninety days by a job of the centre. [1]"


Reply = tuple[int, dict[str, str], str]


class FakeEndpoint:
    """An HTTP server on loopback that gives prepared replies in turn and keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, text = endpoint.replies.pop(0)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    yield fake
    fake.close()


def said(text: Any, finish: str = "stop") -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]})


def ask(url: str, sleep: Callable[[float], None] = lambda s: None, **more: Any) -> Any:
    config = GeneratorConfig(name=GeneratorName.openai, base_url=url, model="m", **more)
    generator = OpenAIGenerator(config, sleep=sleep)
    try:
        return generator.generate("What is the limit?", [FISH, SLURM])
    finally:
        generator.close()


class TestOpenAI:
    def test_request_is_deterministic_and_the_answer_is_read(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [said(" The limit is 240 minutes [2]. See [9]. ")]
        answer = ask(endpoint.url + "/", max_tokens=77)
        assert (answer.text, answer.citations, answer.found) == ("The limit is 240 minutes [2]. See [9].", [2], True)
        path, headers, body = endpoint.seen[0]
        assert path == "/v1/chat/completions" and "authorization" not in headers
        assert {k: body[k] for k in ("model", "temperature", "seed", "max_tokens")} == {
            "model": "m", "temperature": 0, "seed": 0, "max_tokens": 77,
        }
        assert '<passage n="2" title="limits">' in body["messages"][1]["content"]

    def test_not_found_is_recognised(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [said(f"{NOT_FOUND.capitalize()}.")]
        assert not ask(endpoint.url).found

    def test_key_comes_from_the_variable_or_a_private_file(
        self, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MY_KEY", "k1\n")
        (tmp_path / "key").write_text("k2\n")
        (tmp_path / "key").chmod(0o600)
        endpoint.replies = [said("a"), said("b")]
        ask(endpoint.url, api_key_env="MY_KEY")
        ask(endpoint.url, api_key_file=str(tmp_path / "key"))
        assert [headers["authorization"] for _, headers, _ in endpoint.seen] == ["Bearer k1", "Bearer k2"]

    def test_key_that_others_can_read_or_that_is_missing_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "key").write_text("k")
        (tmp_path / "key").chmod(0o640)
        monkeypatch.delenv("MY_KEY", raising=False)
        for more, want in (
            ({"api_key_file": str(tmp_path / "key")}, "chmod 600"),
            ({"api_key_file": str(tmp_path / "none")}, "does not exist"),
            ({"api_key_env": "MY_KEY"}, "MY_KEY is empty"),
        ):
            with pytest.raises(InputError, match=want):
                ask("http://127.0.0.1:1/v1", **more)

    def test_busy_server_is_asked_again_after_the_wait_it_names(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [(503, {}, "busy"), (429, {"Retry-After": "7"}, "slow down"), said("ok [1]")]
        waits: list[float] = []
        assert ask(endpoint.url, waits.append).text == "ok [1]"
        assert waits == [1.0, 7.0]

    def test_server_that_stays_busy_is_a_cluster_error_after_three_tries(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [(429, {"Retry-After": "9999"}, "no")] * 3
        waits: list[float] = []
        with pytest.raises(ClusterError, match=r"3 tries \(HTTP 429"):
            ask(endpoint.url, waits.append)
        assert waits == [30.0, 30.0] and len(endpoint.seen) == 3

    def test_server_that_is_not_there_is_a_cluster_error(self, endpoint: FakeEndpoint) -> None:
        url = endpoint.url
        endpoint.server.server_close()
        with pytest.raises(ClusterError, match=r"ConnectError.*reachable"):
            ask(url)

    @pytest.mark.parametrize(
        ("status", "remedy"),
        [(401, "api_key_env"), (404, "generator.model"), (400, "stage.generate.k"), (302, "base_url")],
    )
    def test_refusal_is_told_once_with_a_remedy_and_without_the_key(
        self, endpoint: FakeEndpoint, status: int, remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "secret-key")
        endpoint.replies = [(status, {"Location": "http://127.0.0.1:1/"}, "bad secret-key")]
        with pytest.raises(InputError, match=f"HTTP {status}.*{remedy}") as caught:
            ask(endpoint.url, api_key_env="MY_KEY")
        assert "secret-key" not in str(caught.value) and len(endpoint.seen) == 1

    @pytest.mark.parametrize("text", ["<html>", "[]", '{"choices": []}', '{"choices": [{"text": "old protocol"}]}'])
    def test_other_protocols_are_told_apart(self, endpoint: FakeEndpoint, text: str) -> None:
        endpoint.replies = [(200, {}, text)]
        with pytest.raises(ClusterError, match="does not speak the OpenAI chat protocol"):
            ask(endpoint.url)

    def test_reply_without_text_names_the_reason(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [said(None, "length")]
        with pytest.raises(ClusterError, match=r"finish_reason='length'.*max_tokens"):
            ask(endpoint.url)

    def test_proxy_of_the_site_does_not_see_loopback_traffic(
        self, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        endpoint.replies = [said("direct")]
        assert ask(endpoint.url).text == "direct"

    def test_no_passages_ask_no_model_and_no_address_is_refused(self) -> None:
        config = GeneratorConfig(name=GeneratorName.openai, base_url="http://127.0.0.1:1/v1", model="m")
        generator = OpenAIGenerator(config)
        assert not generator.generate("What?", []).found
        generator.close()
        with pytest.raises(InputError, match="no http"):
            ask("localhost:8000")


def test_every_known_name_has_a_generator() -> None:
    assert set(GENERATORS) == set(GeneratorName)
    assert isinstance(get_generator(GeneratorConfig()), ExtractiveGenerator)
    config = GeneratorConfig(name=GeneratorName.openai, base_url="http://127.0.0.1:1/v1", model="m")
    made = get_generator(config)
    assert isinstance(made, OpenAIGenerator)
    made.close()
