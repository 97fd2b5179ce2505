"""What happens to every request: an id, a door, limits of size and number, headers, a line in the log, a count."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from rag_hpc.serve.gateway.metrics import Metrics
from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.traces import Traces

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
LOCAL = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store, no-transform"),
]


class Guard:
    """An ASGI application around another."""

    def __init__(
        self,
        app: App,
        *,
        metrics: Metrics,
        log: Any,
        owner: str,
        max_body: int,
        max_in_flight: int,
        traces: Traces | None = None,
    ) -> None:
        """owner: the path of the socket that asks for no token. log: of structlog."""
        self._app, self._metrics, self._log, self._owner, self._traces = app, metrics, log, owner, traces
        self._max_body, self._max_in_flight, self._in_flight = max_body, max_in_flight, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _ID.fullmatch(given) else secrets.token_hex(12)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, account="", is_owner=(scope.get("server") or [""])[0] == self._owner)
        if self._traces:
            state["trace"] = self._traces.begin(headers, request_id, scope["method"])

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                had = {name.lower() for name, _ in message["headers"]}
                safe = [pair for pair in _SAFE if pair[0] not in had]
                message["headers"] = [*message["headers"], *safe, (b"x-request-id", request_id.encode())]
            await send(message)

        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            if problem := self._refused(scope, headers, state["is_owner"]):
                await respond(problem, answered)
            else:
                await self._app(scope, self._measured(receive), answered)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._note(scope, status, time.monotonic() - begun)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes], is_owner: bool) -> Problem | None:
        if self._in_flight > self._max_in_flight:
            return Problem(503, "overloaded", f"{self._max_in_flight} requests are open; come again", 1.0)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            return _too_large(self._max_body)
        if is_owner:  # a browser behind a tunnel visits other sites as well
            host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
            if not LOCAL.fullmatch(host) or (origin and origin.partition("://")[2] != host):
                return Problem(403, "wrong_host", f"host {host!r}: this door is for localhost and its own page alone")
        return None

    def _measured(self, receive: Receive) -> Receive:
        """Return what receives the body, and no more of it than is allowed, however it is sent."""
        size = 0

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise TooLarge(self._max_body)
            return message

        return received

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        state, route = scope["state"], getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        self._log.info(
            "request",
            request_id=state["request_id"],
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            account=state["account"],
            **state.get("noted", {}),
        )
        if trace := state.get("trace"):
            trace.end(scope["method"], route, status, state.get("noted", {}))


class TooLarge(HTTPException):
    """A body that goes on beyond what is allowed; of a kind that is let through where bodies are read."""

    def __init__(self, most: int) -> None:
        super().__init__(413, _too_large(most).said)


async def respond(problem: Problem, send: Send) -> None:
    """Send a problem as a response."""
    from starlette.responses import JSONResponse

    response = JSONResponse(problem.body(), problem.status, problem.headers())
    await response({"type": "http"}, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _too_large(most: int) -> Problem:
    return Problem(413, "request_too_large", f"the body has more than {most} bytes; send less")
