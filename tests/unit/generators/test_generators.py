"""Generators: quotations that can be verified, an honest "not found", and an endpoint that fails in every way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accounts import Account

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.algo.answer.cite import check_quotes
from rag_hpc.algo.answer.sentences import words_of
from rag_hpc.errors import ClusterError, ConfigError, InputError, Interrupted
from rag_hpc.generators.base import Passage
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import NUM_READ, ExtractiveGenerator
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.registry import GENERATORS, Given, get_generator


def passage(text: str, title: str = "") -> Passage:
    return Passage(chunk_id="c", doc_id="d", title=title, text=text)


HEAPQ = passage(
    "heapq.nlargest(n, iterable, key=None)\n\nFind the n largest elements in a dataset.\n\n"
    "heapq.merge(*iterables, key=None, reverse=False)\n\nMerge multiple sorted inputs into a single sorted output.",
    "heapq",
)
SLURM = passage("The default time limit is 240 minutes. Longer jobs are killed. Use --time to ask for more.", "limits")
FISH = passage("Fish live in water. They have gills.", "fish")


def by_words(question: str, sentences: Sequence[str]) -> Any:
    """Stand in for the encoder: texts are as near to each other as the words that they share are many."""
    vectors = np.zeros((1 + len(sentences), 512), dtype=np.float32)
    for row, text in zip(vectors, [question, *sentences], strict=True):
        row[[zlib.crc32(word.encode()) % 512 for word in sorted(words_of(text))]] = 1.0
        row /= max(1.0, float(np.linalg.norm(row)))
    return vectors


class TestExtractive:
    generator = ExtractiveGenerator(by_words, 0.5)

    def test_answer_quotes_a_sentence_and_says_where_it_stands(self) -> None:
        answer = self.generator.generate("What is the default time limit?", [FISH, SLURM])
        assert answer.text.startswith("The default time limit is 240 minutes. [2]")
        assert answer.citations == [2] and answer.found and answer.score == answer.quotes[0].score > 0.5
        first = answer.quotes[0]
        assert SLURM.text[first.start : first.end] == "The default time limit is 240 minutes."
        checks = check_quotes(answer.text, answer.quotes, [FISH, SLURM])
        assert [c.reason for c in checks] == ["quoted"] * len(answer.quotes)

    def test_a_sentence_below_a_signature_is_named_by_it(self) -> None:
        answer = self.generator.generate("How do I find the largest elements of a dataset?", [FISH, HEAPQ])
        assert answer.text.startswith("heapq.nlargest: Find the n largest elements in a dataset. [2]")
        assert answer.short == "nlargest" and answer.citations == [2]

    def test_short_answer_is_a_part_only_where_a_rule_is_sure(self) -> None:
        for question, short in (
            ("How many minutes is the default time limit?", "240"),
            ("Which option do I use to ask for more time?", "--time"),
            ("What is the default time limit?", "The default time limit is 240 minutes."),
        ):
            assert self.generator.generate(question, [SLURM]).short == short

    def test_nothing_likely_enough_is_not_found(self) -> None:
        for question, passages in (
            ("Who painted Guernica?", [FISH, SLURM]),
            ("Fish?", []),
            ("what is it", [FISH]),
            ("Fish?", [passage("  \n ")]),
        ):
            answer = self.generator.generate(question, passages)
            assert (answer.text, answer.found, answer.citations) == (NOT_FOUND, False, [])
        assert ExtractiveGenerator(by_words, 0.0).generate("Who painted Guernica?", [FISH]).found

    def test_a_name_that_no_passage_holds_makes_an_answer_unlikely(self) -> None:
        known, unknown = (self.generator.generate(f"Where do fish of {name} live?", [FISH]) for name in ("water", "Oz"))
        assert known.score and unknown.score and known.score > unknown.score

    def test_words_carry_an_answer_where_the_encoder_knows_nothing(self) -> None:
        blind = ExtractiveGenerator(lambda question, texts: np.full((1 + len(texts), 4), 0.5), 0.5)
        text = "北京是中国的首都。鱼生活在水里。"
        answer = blind.generate("鱼生活在哪里？", [passage(text)])
        assert answer.text.startswith(text.split("。")[1])

    def test_the_second_sentence_says_something_else(self) -> None:
        answer = self.generator.generate("Where do fish live?", [FISH, FISH])
        assert answer.citations[0] == 1 and answer.text.count("Fish live in water.") == 1

    def test_long_and_wrapped_sentences_are_quoted_in_one_line_and_cut_before_a_space(self) -> None:
        wrapped = passage("The scratch file system is cleaned every ninety days by\na job of the centre.")
        answer = self.generator.generate("When is the scratch file system cleaned?", [wrapped])
        assert answer.text == "The scratch file system is cleaned every ninety days by a job of the centre. [1]"
        long = passage("The scratch file system is cleaned " + "again " * 100 + "daily.")
        answer = self.generator.generate("When is the scratch file system cleaned?", [long])
        assert answer.text.endswith("again … [1]") and len(answer.text) < 420
        assert [c.reason for c in check_quotes(answer.text, answer.quotes, [long])] == ["quoted"]

    def test_the_encoder_reads_headings_and_signatures_and_not_more_than_it_must(self) -> None:
        seen: list[Sequence[str]] = []

        def watch(question: str, sentences: Sequence[str]) -> Any:
            seen.append(sentences)
            return by_words(question, sentences)

        many = passage("f(x)\n\n" + " ".join(f"Item {n} is kept here." for n in range(90)), "a page")
        ExtractiveGenerator(watch, 0.0).generate("Which item is kept?", [many])
        assert len(seen[0]) == NUM_READ and seen[0][0] == "a page\nf: Item 0 is kept here."


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


@contextlib.contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield the address of a server that reads a request, and then behaves as it likes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = list(iter(self.rfile.readline, b"\r\n"))
            lengths = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")]
            self.rfile.read(sum(lengths))
            behave(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    yield fake
    fake.close()


def said(text: Any, finish: str = "stop") -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]})


def ask(url: str, sleep: Callable[[float], None] = lambda s: None, **more: Any) -> Any:
    config = GeneratorConfig(name=GeneratorName.openai, base_url=url, model="m", **more)
    return OpenAIGenerator(config, sleep=sleep, jitter=lambda: 0.0).generate("What is the limit?", [FISH, SLURM])


class TestOpenAI:
    def test_request_is_deterministic_and_the_answer_is_read(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [said(" The limit is 240 minutes [2]. See [9]. ")]
        answer = ask(endpoint.url + "/", max_tokens=77)
        assert (answer.text, answer.citations, answer.found) == ("The limit is 240 minutes [2]. See [9].", [2], True)
        path, headers, body = endpoint.seen[0]
        assert path == "/v1/chat/completions" and "authorization" not in headers
        assert {k: body[k] for k in ("model", "temperature", "seed", "max_tokens")} == {
            "model": "m",
            "temperature": 0,
            "seed": 0,
            "max_tokens": 77,
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

    @pytest.mark.parametrize("head", ["", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
    @pytest.mark.timeout(30)
    def test_reply_that_drips_ends_when_its_time_is_up(self, head: str) -> None:
        """A byte now and then keeps every single read in time; the head of a reply may drip too."""

        def drip(client: socket.socket) -> None:
            client.sendall(head.encode())
            with contextlib.suppress(OSError):
                for _ in range(600):
                    client.sendall(b"x" if head else b"H")
                    time.sleep(0.05)

        begun = time.monotonic()
        with raw_server(drip) as url, pytest.raises(ClusterError, match=r"3 tries \(no whole reply within 0.4 s\)"):
            ask(url, timeout_s=0.4)
        assert time.monotonic() - begun < 10

    def test_stop_is_heard_while_the_reply_is_waited_for_and_between_tries(self) -> None:
        def stop_after(seconds: float) -> Callable[[], None]:
            end = time.monotonic() + seconds

            def check_stop() -> None:
                if time.monotonic() > end:
                    raise Interrupted("stopped")

            return check_stop

        def busy(client: socket.socket) -> None:
            client.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 25\r\nContent-Length: 0\r\n\r\n")

        begun = time.monotonic()
        for behave in (lambda client: time.sleep(1.5), busy):
            with raw_server(behave) as url:
                config = GeneratorConfig(name=GeneratorName.openai, base_url=url, model="m")
                with pytest.raises(Interrupted, match="stopped"):
                    OpenAIGenerator(config, stop_after(0.3)).generate("What?", [FISH])
        assert time.monotonic() - begun < 10

    @pytest.mark.parametrize("packed", [True, False])
    def test_endless_reply_is_cut_off_and_packed_ones_are_not_unpacked_further(self, packed: bool) -> None:
        zeros = bytes(1 << 20)
        bomb = zlib.compressobj(wbits=31)
        body = b"".join([*(bomb.compress(zeros) for _ in range(64)), bomb.flush()]) if packed else zeros * 8

        def send(client: socket.socket) -> None:
            head = "Content-Encoding: gzip\r\n" if packed else ""
            client.sendall(f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
            with contextlib.suppress(OSError):
                client.sendall(body)

        with raw_server(send) as url:
            tracemalloc.start()
            with pytest.raises(ClusterError, match="longer than 4 MiB"):
                ask(url)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 24 << 20  # both sides of the connection are in this process

    def test_packed_reply_is_read(self) -> None:
        packer = zlib.compressobj(wbits=31)
        body = packer.compress(said("packed [1]")[2].encode()) + packer.flush()

        def send(client: socket.socket) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)

        with raw_server(send) as url:
            assert ask(url).text == "packed [1]"

    @pytest.mark.parametrize(
        "key", ["two words", "sk-line\nbreak", "sk-\x07bell", "sk-caf\xe9", pytest.param("k" * 4097, id="long")]
    )
    def test_what_is_no_key_is_refused_when_it_is_read_and_never_shown(
        self, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MY_KEY", key)
        (tmp_path / "key").write_text(key)
        (tmp_path / "key").chmod(0o600)
        for more in ({"api_key_env": "MY_KEY"}, {"api_key_file": str(tmp_path / "key")}):
            with pytest.raises(InputError, match="holds no key: one word of printable ASCII") as caught:
                ask("http://127.0.0.1:1/v1", **more)
            assert key[:5] not in str(caught.value) and caught.value.__context__ is None

    def test_key_file_of_another_account_is_not_ours_to_send(self, tmp_path: Path, stranger: Account) -> None:
        (tmp_path / "key").write_text("sk-theirs")
        (tmp_path / "key").chmod(0o600)
        os.chown(tmp_path / "key", stranger.uid, stranger.gid)
        with pytest.raises(InputError, match=f"belongs to {stranger.name}"):
            ask("http://127.0.0.1:1/v1", api_key_file=str(tmp_path / "key"))

    def test_key_is_masked_before_anything_is_cut(
        self, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut first, the part of a key at the edge would no longer be known as one."""
        key = "sk-" + "0123456789" * 5
        monkeypatch.setenv("MY_KEY", key)
        long = [length * "." + key for length in (260, 180)]
        endpoint.replies = [(400, {}, long[0]), (200, {}, long[1]), said(None, key), *[(500, {}, long[0])] * 3]
        for error in (InputError, ClusterError, ClusterError, ClusterError):
            with pytest.raises(error) as caught:
                ask(endpoint.url, api_key_env="MY_KEY")
            text = "".join(traceback.format_exception(caught.value))
            assert "***" in text and "sk-0" not in text

    @pytest.mark.parametrize("url", ["http://me:pass@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?key=pass"])
    def test_address_with_a_secret_in_it_is_refused_and_not_shown(self, url: str) -> None:
        with pytest.raises(ConfigError, match="give the bare address") as caught:
            GeneratorConfig(base_url=url)
        assert "pass@" not in str(caught.value) and "=pass" not in str(caught.value)

    def test_half_a_character_is_replaced(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [(200, {}, '{"choices": [{"message": {"content": "a\\ud800b [1]"}}]}')]
        assert ask(endpoint.url).text == "a?b [1]"

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

    @pytest.mark.parametrize(
        "text",
        [
            "<html>",
            "[]",
            '{"choices": []}',
            '{"choices": [{"text": "old protocol"}]}',
            pytest.param("[" * 200_000, id="deep"),
        ],
    )
    def test_other_protocols_are_told_apart(self, endpoint: FakeEndpoint, text: str) -> None:
        endpoint.replies = [(200, {}, text)]
        with pytest.raises(ClusterError, match="does not speak the OpenAI chat protocol"):
            ask(endpoint.url)

    def test_reply_without_text_names_the_reason(self, endpoint: FakeEndpoint) -> None:
        endpoint.replies = [said(None, "length")]
        with pytest.raises(ClusterError, match=r"finish_reason='length'.*max_tokens"):
            ask(endpoint.url)

    @pytest.mark.parametrize(("finish", "tokens"), [("abort", 3), ("stop", 0)])
    def test_answer_that_a_dying_server_broke_off_is_no_answer(
        self, endpoint: FakeEndpoint, finish: str, tokens: int
    ) -> None:
        """vLLM gives those that are in flight back as they are, with status 200: empty ones would read "not found"."""
        choice = {"message": {"content": ""}, "finish_reason": finish}
        endpoint.replies = [(200, {}, json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}))]
        with pytest.raises(ClusterError, match="broke an answer off"):
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
        assert not OpenAIGenerator(config).generate("What?", []).found
        with pytest.raises(InputError, match="no http"):
            ask("localhost:8000")


def test_every_known_name_has_a_generator() -> None:
    assert set(GENERATORS) == set(GeneratorName)
    assert isinstance(get_generator(GeneratorConfig(), Given(load=lambda: by_words)), ExtractiveGenerator)

    def never() -> Any:
        raise AssertionError("an endpoint needs no encoder")

    config = GeneratorConfig(name=GeneratorName.openai, base_url="http://127.0.0.1:1/v1", model="m")
    assert isinstance(get_generator(config, Given(load=never)), OpenAIGenerator)
