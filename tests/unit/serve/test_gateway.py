"""A gateway before a resident group: what real clients get, who is let in, what is said when something is missing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fixedcorpus
import gateways
import httpx
import openai
import pytest
import stagerun
from accounts import Account
from chatserver import ChatServer

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.launchers import group
from rag_hpc.serve.gateway.places import FEEDBACK, FOLDER, Doors
from rag_hpc.serve.places import groups_of

pytestmark = pytest.mark.timeout(300)
LONG, LONGER = (json.dumps({"question": "token " * num}).encode() for num in (5000, 100_000))
ASKED = fixedcorpus.ASKED["caching"]
MESSAGES: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def doors(gated: Ledger) -> Iterator[Doors]:
    """The doors of a gateway that quotes."""
    limits = ["gateway.max_body_kib=64", "gateway.search_ms=15000", "gateway.cache=false"]
    with gateways.gateway(gated, "quoting", *limits) as found:
        yield found


@pytest.fixture(scope="module")
def token(gated: Ledger, doors: Doors) -> str:
    return gateways.token_of(doors, gateways.granted(gated, "alice"))


@pytest.fixture
def client(doors: Doors, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateways.url(doors)}/v1", api_key=token, max_retries=0) as found:
        yield found


@pytest.fixture
def http(doors: Doors) -> Iterator[httpx.Client]:
    with gateways.owner(doors) as found:
        yield found


# ---- what real clients get


def test_openai_s_client_gets_the_answer_of_ask_whole_and_streamed(
    gated: Ledger, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", ASKED, "--json", f"run={gated.run_dir}"]) == 0
    asked = json.loads(capsys.readouterr().out)
    whole = client.chat.completions.create(model="demo", messages=MESSAGES)
    said = whole.choices[0].message
    assert said.content == asked["answer"] and asked["found"] and whole.choices[0].finish_reason == "stop"
    extra: Any = whole.model_extra
    assert {key: extra["rag"][key] for key in asked} == asked and extra["rag"]["partial"] is False
    citations: Any = said.model_extra
    assert [one["doc_id"] for one in citations["citations"]] == [
        one["doc_id"] for one in asked["passages"] if one["cited"]
    ]
    pieces = list(client.chat.completions.create(model="demo", messages=MESSAGES, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == asked["answer"]
    last: Any = pieces[-1].model_extra
    assert last["rag"]["citations"] == asked["citations"] and pieces[-1].choices[0].finish_reason == "stop"
    prompted = client.completions.create(model="demo", prompt=ASKED)
    assert prompted.choices[0].text == asked["answer"]
    texts = [piece.choices[0].text for piece in client.completions.create(model="demo", prompt=ASKED, stream=True)]
    assert "".join(texts) == asked["answer"]
    assert [model.id for model in client.models.list()] == ["demo"]


def test_embeddings_are_the_encoder_s(client: openai.OpenAI, chain: stagerun.Chain) -> None:
    from rag_hpc.models.device import Precision
    from rag_hpc.models.encoder import Encoder

    wanted = Encoder(precision=Precision.auto, threads=1).encode(["a deque"])[0]
    found = client.embeddings.create(model="demo", input=["a deque", "a digest"])
    assert [one.index for one in found.data] == [0, 1]
    assert max(abs(a - float(b)) for a, b in zip(found.data[0].embedding, wanted, strict=True)) < 1e-6
    plain = client.embeddings.create(model="demo", input="a deque", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(found.data[0].embedding, abs=1e-7)


def test_a_stream_s_headers_keep_proxies_from_holding_it(http: httpx.Client) -> None:
    reply = http.post("/v1/query", json={"question": ASKED, "stream": True}, headers={"Accept-Encoding": "gzip"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no" and "no-transform" in reply.headers["cache-control"]
    assert "content-encoding" not in reply.headers
    *pieces, last = gateways.events_of(reply)
    assert "".join(piece["delta"] for piece in pieces) == last["done"]["answer"]


def test_concurrent_questions_are_answered_as_each_alone(http: httpx.Client) -> None:
    def asked(question: str) -> Any:
        return http.post("/v1/retrieve", json={"question": question, "k": 3}).json()

    questions = [*fixedcorpus.ASKED.values()] * 3
    alone = {question: asked(question)["passages"] for question in set(questions)}
    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(asked, questions))
    assert [one["passages"] for one in together] == [alone[question] for question in questions]
    assert {one["coverage"] for one in together} == {"4/4"}


# ---- who is let in


def test_a_tenant_finds_its_passages_alone_whatever_it_asks_for(
    gated: Ledger, doors: Doors, http: httpx.Client
) -> None:
    everything = http.post("/v1/retrieve", json={"question": ASKED, "k": 20}).json()["passages"]
    mine = everything[-1]["doc_id"]
    assert len({one["doc_id"] for one in everything}) > 3
    only = f"doc_id == {mine!r}"
    bearer = {"Authorization": f"Bearer {gateways.token_of(doors, gateways.granted(gated, 'bob', filter=only))}"}

    def found(**asked: Any) -> set[str]:
        reply = httpx.post(f"{gateways.url(doors)}/v1/retrieve", json={"question": ASKED, **asked}, headers=bearer)
        assert reply.json()["coverage"] == "4/4"
        return {one["doc_id"] for one in reply.json()["passages"]}

    other = f"doc_id == {next(one['doc_id'] for one in everything if one['doc_id'] != mine)!r}"
    assert found(k=20) == found(filter=only) == {mine} and found(filter=other) == set()
    assert found(filter=f"{other} or num_tokens > 0") == {mine}
    wrong = httpx.post(
        f"{gateways.url(doors)}/v1/retrieve", json={"question": "x", "filter": "1) or (lang == 'en'"}, headers=bearer
    )
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_filter")
    unknown = httpx.post(
        f"{gateways.url(doors)}/v1/retrieve", json={"question": "x", "filter": "hue == 1"}, headers=bearer
    )
    assert unknown.status_code == 400 and "no field 'hue'" in unknown.json()["error"]["message"]
    assert main(["serve", "grant", f"run={gated.run_dir}", "account.name=eve", "--filter", "hue == 1"]) == 2
    said = httpx.post(f"{gateways.url(doors)}/v1/query", json={"question": ASKED}, headers=bearer).json()
    assert {one["doc_id"] for one in said["passages"]} == {mine}
    assert (
        len({one["doc_id"] for one in http.post("/v1/retrieve", json={"question": ASKED, "k": 20}).json()["passages"]})
        > 3
    )


def test_without_a_good_token_only_the_owner_s_door_answers(gated: Ledger, doors: Doors, token: str) -> None:
    address = gateways.url(doors)
    for path in ("/v1/chat/completions", "/v1/query", "/v1/retrieve", "/v1/embeddings", "/v1/feedback"):
        for header in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": f"Basic {token}"}):
            reply = httpx.post(address + path, json=body_of(path), headers=header)
            assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
    assert httpx.get(f"{address}/metrics").status_code == 401
    denied = httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {token}"})
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "insufficient_scope")
    assert httpx.get(f"{address}/healthz").status_code == httpx.get(f"{address}/readyz").status_code == 200
    with httpx.Client(transport=httpx.HTTPTransport(uds=doors.edge), base_url="http://localhost") as edge:
        assert edge.post("/v1/query", json={"question": ASKED}).status_code == 401
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="demo", messages=MESSAGES)


def body_of(path: str) -> dict[str, Any]:
    bodies = {
        "/v1/chat/completions": {"model": "demo", "messages": MESSAGES},
        "/v1/embeddings": {"model": "demo", "input": "x"},
        "/v1/feedback": {"request_id": "x", "rating": 1},
    }
    return bodies.get(path, {"question": ASKED})


def test_a_page_of_another_site_cannot_use_the_owner_s_door(http: httpx.Client) -> None:
    asked = {"content": json.dumps({"question": ASKED})}
    assert http.post("/v1/query", **asked, headers={"Content-Type": "text/plain"}).status_code == 422
    as_json = {"Content-Type": "application/json"}
    for wrong in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        reply = http.post("/v1/query", **asked, headers=as_json | wrong)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "wrong_host")
    assert http.post("/v1/query", **asked, headers=as_json | {"Origin": "http://localhost"}).status_code == 200


def test_another_account_reaches_no_socket_and_reads_no_file(gated: Ledger, doors: Doors, stranger: Account) -> None:
    files = [path for path in (gated.run_dir / FOLDER).rglob("*") if path.is_file()]
    assert {"keys.json", "accounts.sqlite", "doors.json", "requests.jsonl"} <= {path.name for path in files}
    for path in (*files, Path(doors.owner), Path(doors.edge), gated.run_dir / FEEDBACK):
        assert stranger.run(["stat", str(path)]).returncode != 0
        assert path.stat().st_mode & 0o077 == 0


def test_a_flood_is_told_when_to_come_again(gated: Ledger, doors: Doors) -> None:
    key = gateways.granted(gated, "flood", per_minute=8)  # two at once, of which the token is one
    bearer = {"Authorization": f"Bearer {gateways.token_of(doors, key)}"}
    replies = [httpx.get(f"{gateways.url(doors)}/v1/models", headers=bearer) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 429, 429, 429]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 8
    assert replies[-1].json()["error"]["type"] == "rate_limit_error"


# ---- what is wrong with a request


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/v1/query", b"{", 400, "invalid_json"),
        pytest.param("/v1/query", b"[" * 5000, 400, "invalid_json", id="nested"),
        ("/v1/query", b"[]", 422, "invalid_field"),
        ("/v1/query", b'{"question": 5}', 422, "invalid_field"),
        ("/v1/query", b'{"question": "a", "colour": 1}', 422, "invalid_field"),
        ("/v1/query", b'{"question": " \\u0000 "}', 400, "empty_question"),
        ("/v1/query", b'{"question": "\\ud800"}', 400, "empty_question"),
        ("/v1/query", b'{"question": "a", "k": 5000}', 400, "too_many_passages"),
        pytest.param("/v1/query", LONG, 400, "context_length_exceeded", id="long"),
        pytest.param("/v1/query", LONGER, 413, "request_too_large", id="longer"),
        ("/v1/query", b"\xff\xfe", 400, "invalid_json"),
        ("/v1/chat/completions", b'{"model": "demo", "messages": []}', 422, "invalid_field"),
        (
            "/v1/chat/completions",
            b'{"model": "gpt-5", "messages": [{"role": "user", "content": "a"}]}',
            404,
            "model_not_found",
        ),
        (
            "/v1/chat/completions",
            b'{"model": "demo", "messages": [{"role": "system", "content": "a"}]}',
            400,
            "no_question",
        ),
        (
            "/v1/chat/completions",
            b'{"model": "demo", "n": 2, "messages": [{"role": "user", "content": "a"}]}',
            400,
            "unsupported_n",
        ),
        ("/v1/completions", b'{"model": "demo", "prompt": ["a", "b"]}', 400, "one_prompt"),
        ("/v1/embeddings", b'{"model": "demo", "input": []}', 400, "too_many_texts"),
        ("/v1/feedback", b'{"request_id": "x", "rating": 7}', 422, "invalid_field"),
        ("/v1/nothing", b"{}", 404, "not_found"),
    ],
)
def test_a_wrong_request_is_told_why(http: httpx.Client, path: str, content: bytes, status: int, code: str) -> None:
    reply = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_goes_on_and_on_is_cut_off(http: httpx.Client) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 10_240  # 10 MB, with no length said before

    with contextlib.suppress(httpx.WriteError):
        reply = http.post("/v1/query", content=pieces(), headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert http.get("/healthz").status_code == 200


# ---- what readers think


def test_a_verdict_is_written_beside_its_question(gated: Ledger, http: httpx.Client) -> None:
    answer = http.post("/v1/query", json={"question": ASKED}, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"
    told = http.post("/v1/feedback", json={"request_id": "mine-1", "rating": -1, "comment": "too\nshort"})
    assert (told.status_code, told.json()["answer_known"]) == (201, True)
    line = json.loads((gated.run_dir / FEEDBACK / "quoting.jsonl").read_text().splitlines()[-1])
    assert (line["question"], line["rating"], line["comment"]) == (ASKED, -1, "too\nshort")
    assert line["cited"] == [one["doc_id"] for one in answer.json()["passages"] if one["cited"]]


def test_metrics_and_the_log_tell_of_requests_and_not_of_questions(gated: Ledger, http: httpx.Client) -> None:
    http.post("/v1/query", json={"question": "What is a zyxwvut?"}, headers={"X-Request-Id": "seen-1"})
    text = http.get("/metrics").text
    assert (
        'rag_requests_total{route="/v1/query",status="200"}' in text and 'rag_step_seconds_count{step="search"}' in text
    )
    lines = (gated.run_dir / FOLDER / "quoting" / "requests.jsonl").read_text()
    (mine,) = [one for one in map(json.loads, lines.splitlines()) if one["request_id"] == "seen-1"]
    assert (mine["route"], mine["status"], mine["coverage"]) == ("/v1/query", 200, "4/4") and mine["timings_ms"][
        "search"
    ] > 0
    assert "zyxwvut" not in lines and "Bearer" not in lines


# ---- when something is missing


def test_a_rank_that_sleeps_makes_an_answer_partial_and_a_group_that_does_none(
    gated: Ledger, http: httpx.Client
) -> None:
    first, second = (row["pid"] for row in group.state_of(groups_of(gated.run_dir)[0])["ranks"])
    os.kill(second, signal.SIGSTOP)
    try:
        reply = http.post("/v1/query", json={"question": ASKED, "deadline_ms": 4000}).json()
        assert (reply["coverage"], reply["partial"]) == ("2/4", True)
        os.kill(first, signal.SIGSTOP)
        begun = time.monotonic()
        late = http.post("/v1/query", json={"question": ASKED, "deadline_ms": 700, "stream": True})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "search_late")
        assert time.monotonic() - begun < 3 and int(late.headers["retry-after"]) >= 1
    finally:
        for pid in (first, second):
            os.kill(pid, signal.SIGCONT)
    end = time.monotonic() + 20
    while http.post("/v1/query", json={"question": ASKED}).json().get("coverage") != "4/4":
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def ask(modelled: Doors, replicas: list[ChatServer]) -> Iterator[httpx.Client]:
    for one in replicas:
        one.statuses, one.cut, one.pause_s, one.bodies = [], None, 0.0, []
    with gateways.owner(modelled) as found:
        yield found
        time.sleep(0.0)


def test_a_model_s_answer_is_streamed_checked_and_counted(ask: httpx.Client, replicas: list[ChatServer]) -> None:
    body = {"model": "demo", "messages": MESSAGES, "stream": True, "max_tokens": 50}
    *pieces, last = gateways.events_of(ask.post("/v1/chat/completions", json=body))
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert text == last["rag"]["answer"] and len(pieces) > 3 and re.search(r"\[\d+\]", text)
    assert last["usage"]["completion_tokens"] == len(pieces) and last["rag"]["citations"][0]["supported"]
    (sent,) = [body for one in replicas for body in one.bodies]
    assert sent["max_tokens"] == 50 and "<passage" in sent["messages"][1]["content"]
    assert ask.post("/v1/chat/completions", json=body | {"stream": False}).json()["rag"]["answer"] == text


def test_the_same_question_goes_to_the_same_replica_and_to_the_other_when_it_fails(
    ask: httpx.Client, replicas: list[ChatServer]
) -> None:
    for _ in range(3):
        assert ask.post("/v1/query", json={"question": ASKED}).json()["fallback"] == ""
    home, other = sorted(replicas, key=lambda one: -len(one.bodies))
    assert (len(home.bodies), len(other.bodies)) == (3, 0)
    home.statuses = [500]
    found = ask.post("/v1/query", json={"question": ASKED}).json()
    assert found["fallback"] == "" and not found["partial"] and len(other.bodies) == 1  # before the first token


def test_when_no_replica_answers_the_passages_are_quoted_and_it_is_said(
    ask: httpx.Client, replicas: list[ChatServer]
) -> None:
    for one in replicas:
        one.statuses = [429]
    found = ask.post("/v1/query", json={"question": ASKED}).json()
    assert found["partial"] and "HTTP 429" in found["fallback"] and "lru_cache" in found["answer"]
    assert found["citations"][0]["reason"] == "quoted"


def test_an_answer_that_breaks_off_is_not_asked_for_twice(ask: httpx.Client, replicas: list[ChatServer]) -> None:
    for one in replicas:
        one.cut = 3
    *pieces, last = gateways.events_of(ask.post("/v1/query", json={"question": ASKED, "stream": True}))
    assert len(pieces) == 3 and "the answer is cut" in last["done"]["fallback"]
    assert sum(len(one.bodies) for one in replicas) == 1


def test_a_stream_says_that_it_lives_and_ends_when_it_may_not_last(
    ask: httpx.Client, replicas: list[ChatServer]
) -> None:
    for one in replicas:
        one.pause_s = 0.9
    begun = time.monotonic()
    reply = ask.post("/v1/query", json={"question": ASKED, "stream": True})
    assert 2.5 < time.monotonic() - begun < 6 and reply.text.count(": still here") >= 3
    assert gateways.events_of(reply)[-1]["error"]["code"] == "stream_expired"
