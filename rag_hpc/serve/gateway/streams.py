"""Answers as server-sent events, which no proxy should hold back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse

from rag_hpc.serve.gateway.problems import Problem
from rag_hpc.serve.gateway.steps import Emit, Said

HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache, no-transform"}
ALIVE = b": still here\n\n"
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return a value as one event."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class Stream:
    """The events of one answer, from when there is something to say."""

    def __init__(
        self,
        work: Callable[[Emit], Awaitable[Said]],
        *,
        piece: Callable[[str], bytes],
        last: Callable[[Said], Awaitable[bytes]],
        headers: Callable[[], dict[str, str]],
        heartbeat_s: float,
        max_s: float,
    ) -> None:
        """piece, last: what stands in the stream for a piece of the text, and at its end. headers: once it begins."""
        self._piece, self._last, self._heartbeat_s = piece, last, heartbeat_s
        self._headers = headers
        self._until = time.monotonic() + max_s
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._task: asyncio.Future[Said] = asyncio.ensure_future(work(self._pieces.put_nowait))
        self._task.add_done_callback(lambda task: self._pieces.put_nowait(None))

    async def response(self) -> Response:
        """Return the response, once its first piece is there or the heart beats. Raises Problem where none comes."""
        events = self._events()
        try:
            first = await anext(events)
        except BaseException:
            self._task.cancel()
            raise
        headers = HEADERS | self._headers()
        return StreamingResponse(self._whole(first, events), media_type="text/event-stream", headers=headers)

    async def _whole(self, first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            yield first
            async for one in events:
                yield one
        except Problem as problem:
            yield event(problem.body())
            yield DONE
        finally:
            self._task.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                raise Problem(408, "stream_expired", "a stream may not last longer; ask again")
            try:
                piece = await asyncio.wait_for(self._pieces.get(), min(self._heartbeat_s, left_s))
            except TimeoutError:
                yield ALIVE
                continue
            if piece is None:
                break
            yield self._piece(piece)
        yield await self._last(await self._task)
        yield DONE
