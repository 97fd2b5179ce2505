"""The flow of an answer: what is late is left out and said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.types import Array
from rag_hpc.generators.base import Answer
from rag_hpc.search.answer import Asker, Place
from rag_hpc.search.searcher import Found
from rag_hpc.serve.client import Reply, Unanswered
from rag_hpc.serve.gateway.batches import Batches
from rag_hpc.serve.gateway.flow import Flow
from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.steps import Question, Said
from rag_hpc.serve.gateway.upstream import Prompt, Upstream, UpstreamFailed

PASSAGE = Passage(chunk_id="c", doc_id="d", title="t", text="A deque keeps items.")


class FakeAsker:
    """Knows one passage, and takes its time."""

    def __init__(self, embed_s: float = 0.0, quote_s: float = 0.0, rerank_s: float = 0.0) -> None:
        self.embed_s, self.quote_s, self.rerank_s, self.calls = embed_s, quote_s, rerank_s, list[str]()

    def embed(self, question: str) -> Array:
        self.calls.append("embed")
        time.sleep(self.embed_s)
        return np.zeros((1, 3), dtype=np.float16)

    def ranked(self, hits: Any, row: int = 0, k: int = 0) -> tuple[list[int], list[dict[str, Any]]]:
        return [0], [{}]

    def reranked(self, question: str, ordinals: list[int], ranks: Any, k: int = 0) -> tuple[list[int], Any]:
        time.sleep(self.rerank_s)
        return ordinals, [{"reranked": Place(1, 0.5)}]

    def passages(self, question: str, ordinals: Sequence[int], ranks: Any, before: Any) -> tuple[list[Passage], Any]:
        return [PASSAGE], ranks

    def messages(self, question: str, passages: Sequence[Passage], before: Any) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}]

    def quoted(self, question: str, passages: Sequence[Passage]) -> Answer:
        self.calls.append("quote")
        time.sleep(self.quote_s)
        return Answer(text="A deque keeps items. [1]", citations=[1], found=True)


class FakeBatches:
    """Finds something in some of four shards, or says why not."""

    def __init__(self, answered: int = 4, error: Unanswered | None = None) -> None:
        self.answered, self.error, self.asked = answered, error, 0

    async def search(self, text: str, vector_1D: Array, only: str, until: float) -> Reply:
        self.asked += 1
        if self.error:
            raise self.error
        return Reply(Found({}, {}), self.answered, 4)

    async def close(self) -> None:
        pass


class FakeUpstream:
    """Says pieces, and then breaks off where it is told to."""

    def __init__(self, *pieces: str, breaks: bool = False, absent: bool = False) -> None:
        self.pieces, self.breaks, self.absent = pieces, breaks, absent

    async def stream(self, prompt: Prompt) -> Any:
        for piece in self.pieces:
            yield piece
        if self.breaks:
            raise UpstreamFailed("as it was told", 9.0, absent=self.absent)

    async def close(self) -> None:
        pass


def flow_of(asker: FakeAsker, batches: FakeBatches, upstream: FakeUpstream | None = None, cache: Any = None) -> Flow:
    return Flow(
        "run",
        cast(Asker, asker),
        cast(Batches, batches),
        cast(Upstream, upstream) if upstream else None,
        metrics=Metrics(),
        page_of=lambda passage, at: None,
        cache=cache,
    )


def asked(flow: Flow, left_s: float = 10.0, text: str = "What?", **more: Any) -> tuple[Said, list[str]]:
    async def one() -> tuple[Said, list[str]]:
        pieces: list[str] = []
        return await flow.answer(Question(text=text, until=time.monotonic() + left_s, **more), pieces.append), pieces

    return asyncio.run(one())


def test_missing_shards_make_an_answer_partial() -> None:
    said, pieces = asked(flow_of(FakeAsker(), FakeBatches(answered=3)))
    assert (said.coverage, said.partial, said.fallback) == ("3/4", True, "")
    assert pieces == ["A deque keeps items. [1]"] and said.answered.checks[0].reason == "quoted"


def test_when_quoting_is_late_the_passages_are_given_and_it_is_said() -> None:
    begun = time.monotonic()
    said, _ = asked(flow_of(FakeAsker(quote_s=1.0), FakeBatches()), left_s=0.3)
    assert time.monotonic() - begun < 0.9 and said.partial and "no time to read" in said.fallback
    assert said.answered.passages == [PASSAGE] and not said.answered.answer.found


def test_a_question_that_is_not_even_embedded_in_time_is_told_to_come_again() -> None:
    with pytest.raises(Problem) as caught:
        asked(flow_of(FakeAsker(embed_s=0.6), FakeBatches()), left_s=0.2)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "deadline_exceeded", 1.0)


@pytest.mark.parametrize(("kind", "status"), [("late", 503), ("down", 503), ("overloaded", 503), ("failed", 500)])
def test_without_any_shard_there_is_no_answer(kind: str, status: int) -> None:
    with pytest.raises(Problem, match="as it was told") as caught:
        asked(flow_of(FakeAsker(), FakeBatches(error=Unanswered("as it was told", kind))))
    assert caught.value.status == status and (caught.value.retry_after_s is not None) == (status == 503)


def test_a_model_that_breaks_off_leaves_its_words_and_one_that_says_nothing_is_quoted_for() -> None:
    cut, pieces = asked(flow_of(FakeAsker(), FakeBatches(), FakeUpstream("A deque ", "keeps", breaks=True)))
    assert cut.answered.answer.text == "".join(pieces) == "A deque keeps" and cut.finish_reason == "length"
    assert cut.partial and "the answer is cut: as it was told" in cut.fallback
    silent, pieces = asked(flow_of(FakeAsker(), FakeBatches(), FakeUpstream(breaks=True)))
    assert pieces == ["A deque keeps items. [1]"] and "quoted without a model" in silent.fallback


def test_a_cross_encoder_that_is_late_leaves_the_ranking_as_it_was_and_it_is_said() -> None:
    flow = flow_of(FakeAsker(rerank_s=0.6), FakeBatches())
    said, _ = asked(flow, left_s=0.4, candidates=5)
    assert said.partial and "no time to rerank" in said.fallback and said.answered.ranks == [{}]
    flow = flow_of(FakeAsker(), FakeBatches())
    said, _ = asked(flow, candidates=5)
    assert not said.partial and said.answered.ranks == [{"reranked": (1, 0.5)}]


def test_a_fleet_without_a_replica_is_no_answer_and_says_when_to_come_again() -> None:
    with pytest.raises(Problem, match="as it was told") as caught:
        asked(flow_of(FakeAsker(), FakeBatches(), FakeUpstream(breaks=True, absent=True)))
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "no_replica", 9.0)
