"""The routes that OpenAI's clients speak to. What those have no field for is in `rag`, citations are in the message."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.questions import prepared
from rag_hpc.serve.gateway.requests import Chat, Completion, Embeddings
from rag_hpc.serve.gateway.service import Service
from rag_hpc.serve.gateway.steps import Said
from rag_hpc.serve.gateway.streams import Stream, event


@dataclass(frozen=True)
class _Shape:
    """How a reply is told from another kind's: its name, and its names for a whole one and for a piece."""

    prefix: str
    whole: str
    part: str
    is_chat: bool

    def choice(self, text: str, citations: list[dict[str, Any]], finish_reason: str) -> dict[str, Any]:
        """Return the choice of a whole reply."""
        said = (
            {"message": {"role": "assistant", "content": text, "citations": citations}}
            if self.is_chat
            else {"text": text, "citations": citations}
        )
        return {"index": 0, "finish_reason": finish_reason, "logprobs": None, **said}

    def piece(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        """Return the choice of a piece."""
        said = {"delta": {"role": "assistant", "content": text} if text else {}} if self.is_chat else {"text": text}
        return {"index": 0, "finish_reason": finish_reason, "logprobs": None, **said}


CHAT = _Shape("chatcmpl", "chat.completion", "chat.completion.chunk", is_chat=True)
COMPLETION = _Shape("cmpl", "text_completion", "text_completion", is_chat=False)


class OpenAI:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service, self._began = service, int(time.time())

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v1")
        for path, handler in (
            ("/chat/completions", self.chat),
            ("/completions", self.completions),
            ("/embeddings", self.embeddings),
        ):
            router.add_api_route(path, handler, methods=["POST"], response_model=None)
        router.add_api_route("/models", self.models, methods=["GET"], response_model=None)
        return router

    async def chat(self, request: Request, body: Chat) -> Response:
        """Answer the last thing that the user said."""
        return await self._answer(request, body, CHAT)

    async def completions(self, request: Request, body: Completion) -> Response:
        """Answer the prompt."""
        return await self._answer(request, body, COMPLETION)

    async def embeddings(self, request: Request, body: Embeddings) -> Response:
        """Return a vector a text."""
        service = self._service
        service.callers.admit(request, "embeddings")
        texts = body.texts()
        if not 1 <= len(texts) <= service.config.max_texts:
            raise Problem(400, "too_many_texts", f"input: {len(texts)} texts, from 1 to {service.config.max_texts}")
        texts = [prepared(text, service.config.max_question_chars, "input") for text in texts]
        vectors = await service.flow.vectors(texts, of_questions=body.input_type == "query")
        given = [_packed(vector) if body.encoding_format == "base64" else vector for vector in vectors]
        data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(given)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return JSONResponse({"object": "list", "model": service.run, "data": data, "usage": usage})

    async def models(self, request: Request) -> Response:
        """Return the one model: the run."""
        self._service.callers.admit(request, "query")
        one = {"id": self._service.run, "object": "model", "created": self._began, "owned_by": "rag-hpc"}
        return JSONResponse({"object": "list", "data": [one]})

    async def _answer(self, request: Request, body: Chat | Completion, shape: _Shape) -> Response:
        service = self._service
        caller = service.callers.admit(request, "query")
        if body.model != service.run:
            raise Problem(404, "model_not_found", f"model={body.model}: there is {service.run}, the run that is served")
        if body.n not in (None, 1):
            raise Problem(400, "unsupported_n", f"n={body.n}: one answer a request is given")
        question = service.question(
            request,
            caller,
            body.question(),
            before=body.before(),
            k=body.k,
            candidates=body.candidates,
            max_tokens=body.most_tokens(),
            temperature=body.temperature or 0.0,
            session=body.user or "",
        )
        head = {
            "id": f"{shape.prefix}-{request.state.request_id}",
            "object": shape.part if body.stream else shape.whole,
            "created": int(time.time()),
            "model": service.run,
        }
        if not body.stream:
            said = await service.flow.answer(question)
            found = await service.told(request, question, said)
            choice = shape.choice(found["answer"], cited(found), said.finish_reason)
            whole = {**head, "choices": [choice], "usage": usage_of(said), "rag": found}
            return JSONResponse(whole, headers=question.headers("answer"))

        async def end(said: Said) -> bytes:
            found = await service.told(request, question, said)
            choice = {**shape.piece("", said.finish_reason), "citations": cited(found)}
            return event({**head, "choices": [choice], "usage": usage_of(said), "rag": found})

        return await Stream(
            partial(service.flow.answer, question),
            piece=lambda text: event({**head, "choices": [shape.piece(text)]}),
            last=end,
            headers=partial(question.headers, "answer"),
            heartbeat_s=service.config.heartbeat_s,
            max_s=service.config.max_stream_s,
        ).response()


def cited(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the passages that an answer cites, as readers of the message need them."""
    keys = ("number", "title", "url", "doc_id", "chunk_id", "page", "verdict")
    return [{key: passage[key] for key in keys} for passage in found["passages"] if passage["cited"]]


def usage_of(said: Said) -> dict[str, int]:
    """Return the tokens that a model counted; none where none was asked."""
    counts = said.answered.answer.counts
    used = {name: counts.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
    return {**used, "total_tokens": sum(used.values())}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
