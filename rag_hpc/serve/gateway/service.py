"""What the routes of a gateway share."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from rag_hpc.algo.text.followups import searched_for
from rag_hpc.serve.cache.files import Files
from rag_hpc.serve.gateway.callers import Caller, Callers, until_of
from rag_hpc.serve.gateway.config import GatewayConfig
from rag_hpc.serve.gateway.flow import Flow
from rag_hpc.serve.gateway.kept import Kept
from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.questions import prepared, remembered
from rag_hpc.serve.gateway.requests import Feedback
from rag_hpc.serve.gateway.steps import Question, Said
from rag_hpc.serve.gateway.traces import Traces

REMEMBERED = 2000  # answers that a verdict may come for


@dataclass(kw_only=True)
class Service:
    """One gateway."""

    run: str
    config: GatewayConfig
    flow: Flow
    callers: Callers
    metrics: Metrics
    ready: Callable[[], Awaitable[dict[str, Any]]]  # how the groups are
    max_tokens: int  # of an answer whose request does not say
    num_tokens: Callable[[str], int]  # of a text, as the prompt counts them
    feedback: Path  # a file of JSON lines
    candidates: int = 0  # hits that the run's cross-encoder scores, of a question that does not say
    most_candidates: int = 0  # as many as there are; 0: the run has no cross-encoder
    asked: Kept | None = None  # where questions are kept
    files: Files | None = None  # of `serve warm`
    traces: Traces | None = None
    answers: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)  # by request id

    def question(self, request: Request, caller: Caller, text: str, **asked: Any) -> Question:
        """Return a question as it is served. Raises Problem for what is beyond the gateway's limits."""
        only, deadline_ms = caller.only(asked.pop("filter", "")), asked.pop("deadline_ms", None)
        if asked.get("k", 0) > self.config.max_k:
            raise Problem(400, "too_many_passages", f"k={asked['k']}: at most {self.config.max_k}")
        candidates = self._candidates(asked.pop("candidates", None), asked.get("k", 0))
        max_tokens = asked.pop("max_tokens", None) or min(self.max_tokens, self.config.max_tokens)
        if max_tokens > self.config.max_tokens:
            raise Problem(400, "too_many_tokens", f"max_tokens={max_tokens}: at most {self.config.max_tokens}")
        words, before = prepared(text, self.config.max_question_chars), asked.pop("before", [])
        before = remembered(before, self.config.history_tokens, self.num_tokens)
        return Question(
            text=searched_for(words, [turn.text for turn in before if turn.role == "user"]),
            asked=words,
            before=before,
            trace=getattr(request.state, "trace", None),
            until=until_of(request, deadline_ms, self.config.deadline_ms),
            only=only,
            tenant=caller.tenant,
            candidates=candidates,
            max_tokens=max_tokens,
            **asked,
        )

    def _candidates(self, asked: int | None, k: int) -> int:
        """Return how many hits are scored anew. Raises Problem for more than there are."""
        most, num = self.most_candidates, self.candidates if asked is None else asked
        if asked and not most:
            raise Problem(400, "no_reranker", f"candidates={asked}: the run has no cross-encoder; leave it away")
        if asked and asked > most:
            said = f"candidates={asked}: the run's rankings have {most} hits (stage.retrieve.depth)"
            raise Problem(400, "too_many_candidates", said)
        return max(num, min(k, most)) if num else 0

    async def told(self, request: Request, question: Question, said: Said) -> dict[str, Any]:
        """Return an answer as plain values under the request's id, by which a verdict may come."""
        pages = self.flow.has_pages(said)  # a hand-over to a thread and back takes longer than all else there
        found = (
            await asyncio.to_thread(self.flow.as_plain, question, said) if pages else self.flow.as_plain(question, said)
        )
        if self.asked:
            await asyncio.to_thread(self.asked.answered, request.state.request_id, question, found)
        self.remember(request.state.request_id, found)
        request.state.noted = {"coverage": said.coverage, "partial": said.partial, "timings_ms": found["timings_ms"]}
        request.state.noted["language"] = found["language"]
        return {"request_id": request.state.request_id, **found}

    def remember(self, request_id: str, found: dict[str, Any]) -> None:
        """Keep what a verdict may come for."""
        cited = [passage["doc_id"] for passage in found["passages"] if passage["cited"]]
        self.answers[request_id] = {"question": found["question"], "answer": found["answer"], "cited": cited}
        if len(self.answers) > REMEMBERED:
            self.answers.popitem(last=False)

    def judged(self, body: Feedback, caller: Caller) -> bool:
        """Write a verdict down; return whether this gateway still knows the answer that it is of."""
        answer = self.answers.get(body.request_id, {})
        if self.asked:
            self.asked.voted(body, caller.tenant)
        line = {
            "unix": round(time.time(), 3),
            "request_id": body.request_id,
            "rating": body.rating,
            "comment": body.comment,
            "chunk_id": body.chunk_id,
            "account": caller.account.name if caller.account else "",
            "tenant": caller.tenant,
            **answer,
        }
        text = (json.dumps(line, sort_keys=True) + "\n").encode()
        descriptor = os.open(self.feedback, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, text)  # one write: lines of several gateways do not mix
        finally:
            os.close(descriptor)
        self.metrics.feedback.labels(str(body.rating)).inc()
        return bool(answer)
