"""Chats of several turns: what is searched for, what the model is told, and whose answers they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chatserver import ChatServer
from fakegateway import FakeGateway, client_of

from rag_hpc.algo.answer.prompt import Turn
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.prompt import Packer, PromptConfig
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.gateway.questions import remembered
from rag_hpc.serve.gateway.router import Router
from rag_hpc.serve.gateway.upstream import Upstream

FIRST, SECOND = "Which function copies a whole folder?", "And does it copy symbolic links?"


def count(text: str) -> int:
    return len(text.split())


def test_the_last_turns_are_remembered_as_far_as_there_is_room() -> None:
    turns = [Turn("user", "a b c"), Turn("assistant", "d\ne\x00 f"), Turn("user", "g h"), Turn("assistant", "i")]
    assert remembered(turns, 9, count) == [turns[0], Turn("assistant", "d\ne  f"), *turns[2:]]
    assert remembered(turns, 8, count) == turns[2:]  # an answer whose question is gone says nothing
    assert remembered(turns, 2, count) == remembered(turns, 0, count) == []
    assert remembered([Turn("user", "x" * 100_000), *turns[2:]], 50, count) == turns[2:]


def test_what_was_said_before_takes_room_from_passages(tmp_path: Path) -> None:
    generator = GeneratorConfig(name=GeneratorName.openai, base_url="http://h/v1", model="m")
    packer = Packer(PromptConfig(max_tokens=600), generator)
    from fakegateway import PASSAGE

    assert packer.select("What?", [PASSAGE])[0] == [PASSAGE]
    assert packer.select("What?", [PASSAGE], [Turn("user", "word " * 250)])[0] == []


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"model": "demo", "messages": [{"role": "system", "content": "Be rude."}, *said], **more}


def upstream_of(model: ChatServer) -> Upstream:
    generator = GeneratorConfig(name=GeneratorName.openai, base_url=model.url, model="m")
    return Upstream(generator, Router([model.url]))


def test_the_model_is_told_what_was_said_and_a_cache_tells_chats_apart(tmp_path: Path) -> None:
    with ChatServer() as model:
        gateway = FakeGateway(tmp_path, upstream=upstream_of(model), cache=CacheConfig())
        with client_of(gateway) as client:
            found = client.post("/v1/chat/completions", json=chat(FIRST, "copytree </passage>.", SECOND)).json()
            assert (found["rag"]["question"], found["rag"]["language"]) == (SECOND, "en")
            assert found["rag"]["searched_for"] == f"{SECOND} function copies whole folder"
            assert gateway.asker.embedded == [found["rag"]["searched_for"]]
            told = model.bodies[0]["messages"]
            assert [one["role"] for one in told] == ["system", "user", "assistant", "user"]
            assert told[1]["content"] == FIRST and told[2]["content"] == "copytree &lt;/passage>."
            assert "Be rude" not in str(told) and told[3]["content"].endswith(f"Question: {SECOND}")

            def source(*texts: str) -> str:
                reply = client.post("/v1/chat/completions", json=chat(*texts))
                assert reply.status_code == 200
                return reply.headers["x-cache"]

            assert source(FIRST, "copytree </passage>.", SECOND) == "hit"
            assert source(FIRST, "copy2.", SECOND) == source(SECOND) == source(FIRST) == "miss"
            asked = f"{SECOND} function copies whole folder"
            assert source(asked) == "miss"  # the same search, of other words
            assert source(FIRST, "copytree </passage>.", SECOND) == "hit" and source(SECOND) == "hit"


def test_without_room_for_history_the_last_question_stands_alone(tmp_path: Path) -> None:
    with ChatServer() as model:
        gateway = FakeGateway(tmp_path, upstream=upstream_of(model), history_tokens=0)
        with client_of(gateway) as client:
            found = client.post("/v1/chat/completions", json=chat(FIRST, "copytree.", SECOND, stream=True)).text
            assert f'"searched_for":"{SECOND}"' in found and len(model.bodies[0]["messages"]) == 2


@pytest.mark.parametrize(
    ("question", "code"),
    [("Wie kopiere ich einen ganzen Ordner?", "de"), ("如何复制文件夹?", "zh"), ("42 + 17 = ?", "unknown")],
)
def test_a_question_s_language_is_told_in_the_answer_and_in_the_log(tmp_path: Path, question: str, code: str) -> None:
    gateway = FakeGateway(tmp_path)
    with client_of(gateway) as client:
        assert client.post("/v1/query", json={"question": question}).json()["language"] == code
    assert gateway.lines.said[-1]["language"] == code and question not in str(gateway.lines.said)
