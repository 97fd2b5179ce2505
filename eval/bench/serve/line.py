"""A connection that carries one request after another, and notes when their answers come."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httptools

FIRST = b'"delta"'  # in the event of a stream that brings the first words


@dataclass
class Reply:
    """What came back; seconds are on time.monotonic()."""

    status: int = 0
    streamed: bool = False
    first: float = float("inf")  # the first words of a stream, else the whole
    whole: float = float("inf")
    body: bytearray = field(default_factory=bytearray)


class Line(asyncio.Protocol):
    """One connection; a request at a time."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._reply, self._seen, self._sized = Reply(), False, False
        self._over: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Return what the request brings. Raises ConnectionError where the answer breaks off, and ValueError where
        what comes is no HTTP."""
        if self._transport is None:
            raise ConnectionError("the connection was closed")
        self._reply, self._seen, self._sized = Reply(), False, False
        self._over = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        try:
            await self._over
        finally:
            self._over, self.used = None, time.monotonic()
        return self._reply

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ValueError(f"no HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that it is gone."""
        self._transport = None
        if self._reply.status and not self._sized and error is None:  # such a body ends with its connection
            self.on_message_complete()
        else:
            self._end(ConnectionError(f"the answer broke off: {error or 'closed'}"))

    # ---- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what is said of the body."""
        name = name.lower()
        self._sized = self._sized or name in (b"content-length", b"transfer-encoding")
        if name == b"content-type":
            self._reply.streamed = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        """Note the status."""
        self._reply.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._reply.body += data
        if not self._seen and self._reply.streamed and FIRST in self._reply.body:
            self._seen, self._reply.first = True, time.monotonic()

    def on_message_complete(self) -> None:
        """Take the message as whole."""
        self._reply.whole = time.monotonic()
        if not self._reply.streamed:
            self._reply.first = self._reply.whole
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
