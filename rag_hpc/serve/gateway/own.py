"""The gateway's own routes: questions with all that is known of their answers, searches, verdicts, tokens."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.search.answer import Place
from rag_hpc.serve.gateway.requests import Feedback, Query, TokenRequest
from rag_hpc.serve.gateway.service import Service
from rag_hpc.serve.gateway.steps import Said
from rag_hpc.serve.gateway.streams import Stream, event

ASKED = {"k", "candidates", "filter", "deadline_ms", "session"}  # of a body, by the names that a question has for them


class Own:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v1")
        for path, handler in (
            ("/query", self.query),
            ("/retrieve", self.retrieve),
            ("/feedback", self.feedback),
            ("/auth/token", self.token),
        ):
            router.add_api_route(path, handler, methods=["POST"], response_model=None)
        return router

    async def query(self, request: Request, body: Query) -> Response:
        """Answer a question."""
        service = self._service
        caller = service.callers.admit(request, "query")
        asked = body.model_dump(include=ASKED)
        question = service.question(request, caller, body.question, **asked)
        if not body.stream:
            told = await service.told(request, question, await service.flow.answer(question))
            return JSONResponse(told, headers=question.headers("answer"))

        async def end(said: Said) -> bytes:
            return event({"done": await service.told(request, question, said)})

        return await Stream(
            partial(service.flow.answer, question),
            piece=lambda text: event({"delta": text}),
            last=end,
            headers=partial(question.headers, "answer"),
            heartbeat_s=service.config.heartbeat_s,
            max_s=service.config.max_stream_s,
        ).response()

    async def retrieve(self, request: Request, body: Query) -> Response:
        """Search, and answer nothing."""
        service = self._service
        caller = service.callers.admit(request, "retrieve")
        asked = body.model_dump(include=ASKED)
        question = service.question(request, caller, body.question, **asked)
        found = await service.flow.retrieve(question)
        passages = await service.flow.whole(question, found)
        pairs = zip(passages, found.ranks, strict=True)
        return JSONResponse(
            {
                "request_id": request.state.request_id,
                "run": service.run,
                "question": question.text,
                "passages": [_found(n, *pair) for n, pair in enumerate(pairs, 1)],
                "coverage": found.coverage,
                "partial": found.partial,
                "timings_ms": question.timings_ms(),
                "cache": question.sources,
            },
            headers=question.headers("retrieve"),
        )

    async def feedback(self, request: Request, body: Feedback) -> Response:
        """Write down what a reader thought of an answer."""
        caller = self._service.callers.admit(request, "feedback")
        known = await asyncio.to_thread(self._service.judged, body, caller)
        return JSONResponse({"request_id": body.request_id, "stored": True, "answer_known": known}, 201)

    async def token(self, request: Request, body: TokenRequest) -> Response:
        """Exchange an API key for a token."""
        token, lives_s, account = self._service.callers.exchange(request, body.api_key, body.scopes)
        scope = " ".join(sorted(body.scopes or account.scopes))
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": int(lives_s), "scope": scope})


def _found(number: int, passage: Passage, ranks: dict[str, Place]) -> dict[str, Any]:
    places = {method: {"rank": place.rank, "score": place.score} for method, place in ranks.items()}
    return {**asdict(passage), "number": number, "ranks": places}
