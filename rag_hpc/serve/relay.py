"""The only door to a replica's engine: it passes two paths on, for who holds the fleet's word, and counts what is open.

vLLM's own key leaves several of its paths open, so the engine itself listens on a Unix socket of its owner's alone.
Bodies pass as they are, streams as they come.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rag_hpc.serve.replicas import ReplicaConfig, State

if TYPE_CHECKING:
    from starlette.requests import Request

    from rag_hpc.generators.vllm import Endpoint

PASSED = {"/v1/chat/completions": "/chat/completions", "/v1/completions": "/completions"}  # at the engine's base
KEPT = ("content-type", "cache-control", "retry-after", "x-request-id")  # of the engine's headers
CONNECT_S = 5.0


class Relay:
    """Passes requests on while the replica is ready; `state` and `retry_after_s` are set by its owner."""

    def __init__(self, token: str, config: ReplicaConfig, *, gone: Callable[[], None] = lambda: None) -> None:
        """gone: called when the engine could not be reached or broke off."""
        self._token, self._config, self._gone = token.encode(), config, gone
        self._client: httpx.AsyncClient | None = None
        self._base = ""
        self.state, self.retry_after_s = State.starting, 1.0
        self.inflight = self.answered = self.broken = 0
        self._asked = time.monotonic()
        posts = [Route(path, self._post, methods=["POST"]) for path in PASSED]
        self.app = Starlette(routes=[*posts, Route("/healthz", self._health)])

    @property
    def idle_s(self) -> float:
        """Seconds since the last request, or since the engine was ready; 0 while a request is open."""
        return 0.0 if self.inflight else time.monotonic() - self._asked

    async def point_at(self, endpoint: Endpoint) -> None:
        """Pass requests on to that engine from now on."""
        await self.close()
        transport = httpx.AsyncHTTPTransport(
            uds=str(endpoint.uds) if endpoint.uds else None, limits=httpx.Limits(max_connections=None)
        )
        self._client = httpx.AsyncClient(
            transport=transport,
            headers={"Authorization": f"Bearer {endpoint.key}"},
            timeout=httpx.Timeout(None, connect=CONNECT_S),
        )
        self._base = endpoint.base_url
        self._asked = time.monotonic()

    async def close(self) -> None:
        """Let go of the engine; what is open breaks off."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def one_token(self, model: str) -> bool:
        """Return whether the engine gives one token now. The caller sets the limit."""
        if self._client is None:
            return False
        body = {"model": model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0}
        try:
            reply = await self._client.post(f"{self._base}/chat/completions", json=body)
        except httpx.TransportError:
            return False
        return reply.status_code == 200

    async def _health(self, request: Request) -> Response:
        self._check(request)
        counts = {"inflight": self.inflight, "answered": self.answered, "broken": self.broken}
        return JSONResponse({"state": self.state.value, **counts})

    async def _post(self, request: Request) -> Response:
        self._check(request)
        body = await self._body(request)
        if self.state is not State.ready or self._client is None:
            return self._later(f"the replica is {self.state.value}", self.retry_after_s)
        if self.inflight >= self._config.max_inflight:
            return self._later(f"{self.inflight} requests are open, as many as it takes", 1.0)
        url = self._base + PASSED[request.url.path]
        self.inflight += 1
        try:
            asked = self._client.build_request(
                "POST", url, content=body, headers={"Content-Type": "application/json", "Accept-Encoding": "identity"}
            )
            reply = await self._client.send(asked, stream=True)
        except httpx.TransportError as error:
            self._broke()
            return self._later(f"the engine broke off: {type(error).__name__}", 1.0)
        except BaseException:
            self._ended()
            raise
        kept = {name: reply.headers[name] for name in KEPT if name in reply.headers}
        return StreamingResponse(self._passed(reply), reply.status_code, kept, background=BackgroundTask(reply.aclose))

    async def _passed(self, reply: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for part in reply.aiter_raw():
                yield part
            self.answered += 1
            self._ended()
        except httpx.TransportError:
            self._broke()
            raise  # the connection is cut: half a stream must not look like a whole one
        except BaseException:  # whoever asked went away
            self._ended()
            await reply.aclose()
            raise

    def _ended(self) -> None:
        self.inflight -= 1
        self._asked = time.monotonic()

    def _broke(self) -> None:
        self._ended()
        self.broken += 1
        self._gone()

    def _check(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token):
            raise HTTPException(401, "this is the relay of a fleet's replica; ask the fleet's gateway")

    async def _body(self, request: Request) -> bytes:
        most, body = self._config.max_body_kib << 10, bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise HTTPException(413, f"a request takes {most >> 10} KiB at most; see serve.replica.max_body_kib")
        return bytes(body)

    def _later(self, why: str, seconds: float) -> Response:
        error = {"message": why, "type": "unavailable", "code": "replica_unavailable"}
        return JSONResponse({"error": error}, 503, {"Retry-After": f"{max(1, round(seconds))}"})
