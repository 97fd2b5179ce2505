"""One HTTP/1.1 connection: a request at a time, its reply parsed, decoded and capped while it comes in."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from rag_hpc.algo.text.headers import SNIFF_BYTES, SNIFFED_TYPES, is_markup, retry_after_s, sent_type
from rag_hpc.errors import RagHpcError
from rag_hpc.sources.base import TOTAL_FACTOR
from rag_hpc.sources.crawl.journal import PAGE_TYPES, Ask, Reply
from rag_hpc.sources.files.coding import CodingError, Decoder, content_codings

MAX_HEAD_BYTES = 1 << 16
DRAIN_BYTES = 1 << 16  # an unwanted body up to this size is read to keep the connection
RATIO_BYTES = 1 << 20  # up to this size a page may be packed as tightly as it likes
_REPEATED = (b"content-type", b"content-encoding")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class Broken(RagHpcError):
    """A request that may succeed when it is made again; `reason` is the slug of a Reject if it never does.

    `stale`: the connection may just have been closed while it was idle.
    """

    def __init__(self, detail: str, stale: bool, reason: str = "connection") -> None:
        super().__init__(detail)
        self.detail, self.stale, self.reason = detail, stale, reason


class Connection(asyncio.Protocol):
    """A connection that can be used again as long as `usable` is true."""

    def __init__(self, timeout_s: float, max_ratio: float) -> None:
        from httptools import HttpResponseParser

        self.usable = True
        self.used = False  # a request went out on it before this one
        self.first_s = 0.0  # when the reply's first byte came (time.monotonic)
        self._timeout_s, self._max_ratio = timeout_s, max_ratio
        self._parser = HttpResponseParser(self)
        self._transport: Any = None
        self._future: asyncio.Future[Reply] | None = None

    def send(self, request: bytes, ask: Ask) -> asyncio.Future[Reply]:
        """Return the future reply to `request`. It raises Broken; all other trouble is the reply's `error`."""
        self._future = future = asyncio.get_running_loop().create_future()
        self._ask = ask
        self.first_s = 0.0
        self._started_s = self._touched_s = time.monotonic()
        self._raw_bytes = self._head_bytes = 0  # all that came of the head; its headers
        self._head_done = self._until_close = False
        if self.usable:
            self._transport.write(request)
        else:  # it was closed since it was chosen
            self._future = None
            future.set_exception(Broken("closed before it was asked", stale=self.used))
        return future

    def check(self, now_s: float) -> None:
        """End the request if the reply is late; called every now and then."""
        if now_s - self._touched_s > self._timeout_s:
            self._fail("timeout", f"nothing came for {self._timeout_s:g} s")
        elif now_s - self._started_s > self._timeout_s * TOTAL_FACTOR:
            self._fail("timeout", f"reply not complete after {self._timeout_s * TOTAL_FACTOR:g} s")

    def close(self) -> None:
        """Close the connection at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # ---- what asyncio calls

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._future is None:  # nobody asked
            self.close()
            return
        from httptools import HttpParserError, HttpParserUpgrade

        self._touched_s = time.monotonic()
        self.first_s = self.first_s or self._touched_s
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail("bad-response", f"{type(error).__name__}: {str(error)[:200]}")
        if self._future is not None and not self._head_done:
            self._raw_bytes += len(data)
            self._cap_head(self._raw_bytes)

    def eof_received(self) -> None:
        """Let the transport close; connection_lost follows."""

    def connection_lost(self, error: Exception | None) -> None:
        """End the open request, if any: with what came of its body where only the end of the connection ends it."""
        self.usable = False
        if self._future is None:
            return
        if self._head_done and self._until_close and error is None:
            self._complete()
        elif self._head_done:
            self._fail("truncated", "the connection closed inside the body")
        else:
            future, self._future = self._future, None
            if not future.done():
                what = f"{type(error).__name__}: {error}" if error else "closed before a reply came"
                future.set_exception(Broken(what, stale=self.used and not self.first_s))

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """Start a reply."""
        self._headers: dict[bytes, bytes] = {}
        if self._future is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; of lists all fields count, of other names the first."""
        name = name.lower()
        if name in _REPEATED and name in self._headers:
            value = self._headers[name] + b", " + value
            self._headers[name] = value
        self._headers.setdefault(name, value)
        self._head_bytes += len(name) + len(value) + 4
        self._cap_head(self._head_bytes)

    def on_headers_complete(self) -> None:
        """Decide what becomes of the body."""
        status = self._parser.get_status_code()
        if self._future is None or status < 200:
            return
        self._head_done = True
        self._status = status
        stated = " ".join(self._text(b"content-type").split())
        self._reply = reply = Reply(
            url=self._ask.url,
            status=status,
            content_type=sent_type([stated]) or stated,
            location=self._location(status),
            etag=self._text(b"etag"),
            last_modified=self._text(b"last-modified"),
            fetched_unix=time.time(),
        )
        if status in (429, 503):
            reply.retry_after_s = retry_after_s(self._text(b"retry-after"), reply.fetched_unix)
        length = self._headers.get(b"content-length")
        self._until_close = length is None and b"transfer-encoding" not in self._headers
        is_page = self._ask.kind == "page"
        self._sniffed = is_page and (reply.mime in SNIFFED_TYPES or "/" not in reply.mime)
        self._wanted = status == 200 and (not is_page or self._sniffed or reply.mime in PAGE_TYPES)
        self._parts: list[bytes] = []
        self._size = self._sent = 0
        codings = content_codings(self._text(b"content-encoding"))
        self._decoder: Decoder | None = None
        size = int(length) if length is not None and length.isdigit() else 0
        if not self._wanted:
            if size > DRAIN_BYTES or (self._until_close and status not in (204, 304)):
                self._done(reply, keep=False)
        elif codings:
            self._decode(codings)
        elif size > self._ask.max_bytes:
            self._fail("too-large", f"{size} bytes, cap {self._ask.max_bytes}")

    def on_body(self, data: bytes) -> None:
        """Decode and keep a piece of the body, or end the request when a cap is reached."""
        if self._future is None:
            return
        self._sent += len(data)
        if not self._wanted:
            if self._sent > DRAIN_BYTES:
                self._done(self._reply, keep=False)
            return
        cap = self._ask.max_bytes
        if self._decoder is not None:
            try:
                data = b"".join(self._decoder.feed(data, cap + 1 - self._size))
            except CodingError as error:
                self._fail("content-encoding", str(error))
                return
        self._size += len(data)
        if self._size > cap or self._sent > cap + RATIO_BYTES:
            self._fail("too-large", f"over {cap} bytes{' when decompressed' if self._decoder else ''}")
        elif self._size > RATIO_BYTES and self._size > self._max_ratio * self._sent:
            self._fail("over-ratio", f"{self._sent} bytes sent are over {self._max_ratio:g} times as many decompressed")
        else:
            self._parts.append(data)
            if self._sniffed and self._size >= SNIFF_BYTES:
                self._sniff()

    def on_message_complete(self) -> None:
        """End the request, unless the message was an interim one (1xx)."""
        if self._future is not None and self._head_done:
            self._complete(keep=self._parser.should_keep_alive())

    # ---- helpers

    def _cap_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            self._fail("header-too-large", f"over {MAX_HEAD_BYTES} bytes before the body")

    def _complete(self, *, keep: bool = False) -> None:
        if self._decoder is not None and self._decoder.is_open:
            self._fail("truncated", "the compressed data ends early")
            return
        if self._sniffed and self._wanted:
            self._sniff()
        self._reply.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._done(self._reply, keep)

    def _decode(self, codings: list[str]) -> None:
        try:
            self._decoder = Decoder(codings)
        except CodingError as error:
            self._fail("content-encoding", str(error))

    def _sniff(self) -> None:
        """Call a body of no type that begins as HTML a page, or drop it."""
        self._sniffed = False
        if is_markup(b"".join(self._parts)):
            self._reply.content_type = "text/html"
        else:
            self._wanted, self._parts = False, []
            self._sent = self._size

    def _fail(self, reason: str, detail: str) -> None:
        self._done(Reply(url=self._ask.url, error=reason, detail=detail, fetched_unix=time.time()), keep=False)

    def _done(self, reply: Reply, keep: bool) -> None:
        future, self._future = self._future, None
        self.used = True
        self._parts = []
        if not keep:
            self.close()
        if future is not None and not future.done():
            future.set_result(reply)

    def _location(self, status: int) -> str:
        """Return the Location as a URL in ASCII: its bytes, whatever their charset, are what the server means.

        Of a page it is the Refresh field.
        """
        sent = self._headers.get(b"refresh" if status == 200 else b"location", b"").strip()
        return _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], sent).decode()

    def _text(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1").strip()
