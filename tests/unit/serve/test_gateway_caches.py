"""What a gateway keeps of the steps of an answer, and for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fixedcorpus
import gateways
import numpy as np
import pytest
from chatserver import ChatServer

from rag_hpc.algo.types import Array
from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.generators.base import Answer, Quote
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.search.answer import Answered, Passage, Place, checked
from rag_hpc.serve.ask import manifests, plain
from rag_hpc.serve.cache.cache import Cache
from rag_hpc.serve.cache.config import CacheConfig, Second
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.scope import scope_of, secret_of
from rag_hpc.serve.cache.trial import Trial
from rag_hpc.serve.gateway.caches import Caches, Scopes, said_of, value_of
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.steps import Question, Retrieved, Said

pytestmark = pytest.mark.timeout(200)
PASSAGE = Passage(chunk_id="c", doc_id="d", title="t", text="A deque keeps items.", start=7)
ASKED = fixedcorpus.ASKED["caching"]
IN_OTHER_WORDS = "In what country is Normandy located?", "Normandy is located in which country?"


def said(text: str = "A deque keeps items. [1]", *, partial: bool = False) -> Said:
    quotes = [Quote(number=1, start=0, end=20, score=0.75)]
    answer = Answer(text=text, citations=[1], found=True, short="items", quotes=quotes, score=0.8, counts={"n": 3})
    answered: Answered = checked(answer, [PASSAGE])
    answered.ranks.append({"dense": Place(2, 0.5)})
    return Said(answered=answered, coverage="4/4", partial=partial, fallback="cut" if partial else "")


class Steps:
    """Makes outcomes, counts how often, and takes its time."""

    def __init__(self, *outcomes: Said | Retrieved, wait_s: float = 0.0) -> None:
        self.outcomes, self.wait_s = [*outcomes], wait_s
        self.num = self.ended = 0

    async def __call__(self) -> Any:
        self.num += 1
        await asyncio.sleep(self.wait_s)
        self.ended += 1
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]


async def vector() -> Array:
    return np.float32([[1, 0.01]])


def question(text: str = "What?", *, left_s: float = 10.0, **more: Any) -> Question:
    return Question(text=text, until=time.monotonic() + left_s, **more)


class Made:
    """Caches over a memory of their own."""

    def __init__(self) -> None:
        self.identity = ""
        self.cache = Cache(CacheConfig(), b"s", draw=lambda: 0.5)
        scopes = Scopes(
            lambda num: Scope(tenant="", generation="g", k=3, model=f"m{num}", prompt="p"), 256, lambda: self.identity
        )
        self.caches = Caches("run", self.cache, scopes)

    def answered(self, step: Steps, one: Question) -> Said:
        return asyncio.run(self.caches.answer(one, vector, step))


def test_an_answer_comes_back_as_it_was_said() -> None:
    first = said()
    again = said_of(value_of("run", "What?", first))
    assert again is not None and plain("run", "What?", again.answered) == plain("run", "What?", first.answered)
    assert (again.coverage, again.answered.answer.citations, again.answered.answer.counts) == ("4/4", [1], {})
    assert said_of({"answer": "of another version"}) is None


def test_an_answer_is_kept_for_who_asks_the_same_and_nobody_else() -> None:
    made, step = Made(), Steps(said())
    first, again = question(), question()
    made.answered(step, first)
    assert made.answered(step, again).answered == said_of(value_of("run", "What?", said())).answered  # type: ignore[union-attr]
    assert step.num == 1 and (first.headers("answer"), again.headers("answer")) == (
        {"X-Cache": "miss"},
        {"X-Cache": "hit"},
    )
    made.answered(step, question(k=3))  # as many as without
    assert step.num == 1
    for change in ({"tenant": "t"}, {"only": "lang == 'en'"}, {"k": 4}, {"max_tokens": 9}, {"text": "Why?"}):
        made.answered(step, question(**{"text": "What?", **change}))
    assert step.num == 6
    changing = Made()

    async def other_model() -> Said:
        changing.identity = "b"
        return said()

    asyncio.run(changing.caches.answer(question(), vector, other_model))
    changing.identity = ""
    assert changing.answered(step, question()).coverage == "4/4" and step.num == 7  # it was not kept as the first's
    made.identity = "another model's"
    made.answered(step, question())
    assert step.num == 8
    for _ in range(2):
        made.answered(step, question("How?", temperature=0.5))
    assert step.num == 10


def test_what_is_partial_is_kept_for_nobody() -> None:
    made, step = Made(), Steps(said(partial=True), said())
    assert made.answered(step, question()).fallback == "cut" and made.answered(step, question()).fallback == ""
    found = Steps(*(Retrieved(ordinals=[5], ranks=[{"dense": Place(1, 0.5)}], answered=n, shards=4) for n in (3, 4)))
    got = [asyncio.run(made.caches.retrieved(question(), found)) for _ in range(3)]
    assert [one.coverage for one in got] == ["3/4", "4/4", "4/4"] and found.num == 2
    assert got[2] == got[1] and isinstance(got[2].ranks[0]["dense"], Place)


def test_equal_questions_at_once_are_answered_once_and_each_within_its_own_time() -> None:
    async def together(step: Steps, *asked: Question) -> list[Any]:
        return await asyncio.gather(*(made.caches.answer(one, vector, step) for one in asked), return_exceptions=True)

    made, step = Made(), Steps(said(), wait_s=0.3)
    asked = [question(), question(), question(left_s=0.1)]
    first, joined, late = asyncio.run(together(step, *asked))
    assert step.num == 1 and asked[1].sources["answer"] == "joined" and joined.answered.passages == [PASSAGE]
    assert first.answered.answer.counts == {"n": 3}
    assert isinstance(late, Problem) and (late.status, late.code) == (503, "deadline_exceeded")
    made, step = Made(), Steps(said(partial=True), said(), wait_s=0.05)
    cut, whole = asyncio.run(together(step, question(), question()))
    assert (cut.partial, whole.partial, step.num) == (True, False, 2)  # another's cut answer is not passed on


def test_an_answer_ends_when_the_last_who_waits_for_it_has_gone() -> None:
    async def leaving(num_leaving: int) -> tuple[int, list[Any]]:
        made, step = Made(), Steps(said(), wait_s=0.1)
        tasks = [asyncio.create_task(made.caches.answer(question(), vector, step)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in tasks[:num_leaving]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)
        return step.ended, outcomes

    ended, (_, joined) = asyncio.run(leaving(1))
    assert ended == 1 and joined.answered.passages == [PASSAGE]
    assert asyncio.run(leaving(2))[0] == 0


def test_other_words_get_an_answer_once_such_hits_are_trusted() -> None:
    made, step = Made(), Steps(said())
    made.answered(step, question(IN_OTHER_WORDS[0]))
    checked_one = question(IN_OTHER_WORDS[1])
    made.answered(step, checked_one)
    assert step.num == 2 and made.cache.stats()["semantic_checked"] == 1
    assert checked_one.headers("answer") == {"X-Cache": "miss"}
    made = Made()
    made.cache.trial = Trial(0.01, 0.1, lambda: 0.5, checked=400)
    served = [question(text) for text in IN_OTHER_WORDS]
    for one in served:
        made.answered(step, one)
    assert step.num == 3 and served[1].headers("answer") == {"X-Cache": "semantic"}


# ---- through the door


@pytest.fixture(scope="module")
def model() -> Iterator[ChatServer]:
    with ChatServer() as found:
        yield found


def test_a_gateway_answers_again_from_memory_and_from_what_warm_wrote_and_others_read_what_it_kept(
    gated: Ledger, model: ChatServer, tmp_path: Path
) -> None:
    warmed, run = tmp_path / "questions.txt", f"run={gated.run_dir}"
    warmed.write_text(f"{fixedcorpus.ASKED['sorting']}\n")
    told_by, files = ["generator=openai", "generator.model=m"], f"cache.files={tmp_path / 'files'}"
    assert main(["serve", "warm", run, *told_by, f"generator.base_url={model.url}", "--file", str(warmed), files]) == 0
    settings = [*told_by, f"gateway.replicas=[{model.url}]", files, "cache.second=sqlite"]
    settings += [f"cache.sqlite={tmp_path / 'cache'}", "gateway.wait_ms=0"]
    body, model.bodies, model.statuses = {"question": ASKED}, [], [429]
    with gateways.gateway(gated, "caching", *settings) as doors, gateways.owner(doors) as http:
        quoted = http.post("/v1/query", json=body)
        assert quoted.json()["partial"] and quoted.headers["x-cache"] == "miss"
        first, again = (http.post("/v1/query", json=body) for _ in range(2))
        assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit") and not first.json()["partial"]
        assert first.json()["cache"] == {"embed": "memory", "retrieve": "memory"}
        assert again.json()["cache"] == {"answer": "memory"} and again.json()["timings_ms"] == {}
        same = ("answer", "citations", "passages", "coverage", "found", "short", "score")
        assert [again.json()[key] for key in same] == [first.json()[key] for key in same]
        streamed = http.post("/v1/query", json={**body, "stream": True})
        piece, done = gateways.events_of(streamed)
        assert streamed.headers["x-cache"] == "hit"
        assert piece["delta"] == done["done"]["answer"] == first.json()["answer"]
        chat = {"model": "demo", "messages": [{"role": "user", "content": ASKED}]}
        told = http.post("/v1/chat/completions", json=chat)
        assert told.headers["x-cache"] == "hit" and told.json()["usage"]["total_tokens"] == 0
        assert len(model.bodies) == 2
        assert http.post("/v1/chat/completions", json={**chat, "temperature": 0.7}).headers["x-cache"] == "miss"
        assert http.post("/v1/retrieve", json=body).headers["x-cache"] == "hit"
        assert http.post("/v1/retrieve", json={**body, "k": 2}).headers["x-cache"] == "miss"
        assert 'rag_cache{name="answer_memory"} 3.0' in http.get("/metrics").text
        assert len(model.bodies) == 3
        before = http.post("/v1/query", json={"question": fixedcorpus.ASKED["sorting"]}).json()
        assert before["cache"]["answer"] == "files" and before["found"] and len(model.bodies) == 3
        assert http.get(before["kept_as"]).json()["answer"] == before["answer"]
    request = gated.request()
    generator = GeneratorConfig(name=GeneratorName.openai, base_url="http://h/v1", model="m")
    scope = scope_of(manifests(gated.run_dir, request), request, generator, tenant="")
    other = Cache(CacheConfig(second=Second.sqlite, sqlite=str(tmp_path / "cache")), secret_of(gated.run_dir))
    got = other.get(Key(kind=Kind.answer, scope=scope, text=ASKED))
    other.close()
    assert got is not None and (got.source, got.value["answer"]) == ("shared", first.json()["answer"])


def test_a_wrong_setting_of_the_caches_is_named(gated: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for word, known in (("cache.memory=1", "cache.memory_mib"), ("cache.second=redis", "cache.redis_url")):
        assert main(["serve", "gateway", f"run={gated.run_dir}", "gateway.name=wrong", word]) == 2
        assert known in capsys.readouterr().err
