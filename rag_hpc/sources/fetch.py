"""One host's pages over HTTP: a pinned address, one connection, one pace, and a cap on everything."""

from __future__ import annotations

import datetime
import email.utils
import http.client
import logging
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.errors import Interrupted, RagHpcError
from rag_hpc.sources.connection import Address, PinnedConnection
from rag_hpc.sources.urls import is_public

log = logging.getLogger(__name__)

MAX_TRIES = 3
MAX_WAIT_S = 120.0  # a longer Retry-After is not waited for
TOTAL_FACTOR = 3  # whole reply within timeout_s * this
DRAIN_BYTES = 1 << 16  # an unwanted body up to this size is read to keep the connection
_BLOCK = 1 << 16
_BUSY = (429, 503)

Resolve = dict[str, Address]


class FetchError(RagHpcError):
    """A URL that gave no reply that could be used; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(kw_only=True)
class Response:
    """One reply. `body` is decoded, and empty unless the status is 200 and the content type was wanted."""

    url: str
    status: int
    content_type: str  # as sent, with parameters
    location: str
    body: bytes

    @property
    def mime(self) -> str:
        """Return the bare media type in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


class Pacer:
    """Keeps the delay between request starts to one host, and lets every wait end when the job must stop."""

    def __init__(
        self,
        delay_s: float,
        sleep: Callable[[float], None],
        should_stop: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.delay_s = delay_s
        self._sleep = sleep
        self._should_stop = should_stop
        self._clock = clock
        self._last: float | None = None

    def check(self) -> None:
        """Raise Interrupted when the worker was told to stop."""
        if self._should_stop():
            raise Interrupted("crawl: stopped between two requests; run again to go on")

    def turn(self) -> None:
        """Return when the next request may start."""
        self.check()
        if self._last is not None:
            self.pause(self._last + self.delay_s - self._clock())
        self._last = self._clock()

    def pause(self, wait_s: float) -> None:
        """Sleep in slices of at most one second, so that a stop is seen in time."""
        while wait_s > 0:
            self._sleep(min(wait_s, 1.0))
            wait_s -= 1.0
            self.check()


@dataclass(kw_only=True)
class HostLimits:
    """What one host's client may do."""

    user_agent: str
    timeout_s: float
    allow_private: bool
    resolve: Resolve | None = None


class HostClient:
    """Fetches URLs of one host key, one after the other, over one kept connection per scheme."""

    def __init__(
        self,
        host: str,
        limits: HostLimits,
        pacer: Pacer,
        lookup: Callable[..., Any] = socket.getaddrinfo,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = host
        self.pacer = pacer
        self._limits = limits
        self._lookup = lookup
        self._wall_clock = wall_clock
        self._pinned: str | None = None
        self._open: dict[str, PinnedConnection] = {}
        self._headers = {
            "User-Agent": limits.user_agent,
            "Accept": "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        }

    def get(self, url: str, max_bytes: int, wants: Callable[[str], bool]) -> Response:
        """Return the reply to GET `url` (normalised, of this host), redirects not followed.

        The body is read only for status 200 and a bare media type that `wants` accepts. 429, 503 and broken
        connections are tried MAX_TRIES times. Raises FetchError and Interrupted.
        """
        for attempt in range(1, MAX_TRIES + 1):
            last = attempt == MAX_TRIES
            wait_s = 2.0 ** (attempt - 1)
            try:
                response, asked_s = self._once(url, max_bytes, wants)
            except _Broken as error:
                if last:
                    raise FetchError("connection", error.detail) from error
                if error.stale:
                    continue
            else:
                if response.status not in _BUSY or last or (asked_s or 0.0) > MAX_WAIT_S:
                    return response
                wait_s = wait_s if asked_s is None else asked_s
            self.pacer.pause(wait_s)
        raise FetchError("connection", "no try left")

    def close(self) -> None:
        """Close the connections."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _once(self, url: str, max_bytes: int, wants: Callable[[str], bool]) -> tuple[Response, float | None]:
        """Return the reply and the seconds its Retry-After asks for, if any."""
        parts = urlsplit(url)
        connection = self._connection(parts.scheme)
        connection.max_total_s = self._limits.timeout_s * TOTAL_FACTOR
        self.pacer.turn()
        stale = connection.sock is not None  # the server may have closed it while it was idle
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        keep = False
        try:
            connection.start_clock()
            connection.request("GET", target, headers=self._headers)
            reply = connection.getresponse()
            stale = False
            response = Response(
                url=url,
                status=reply.status,
                content_type=reply.getheader("Content-Type", ""),
                location=reply.getheader("Location", ""),
                body=b"",
            )
            if reply.status == 200 and wants(response.mime):
                response.body = _read_body(reply, max_bytes)
                keep = True
            else:
                keep = _drained(reply)
            return response, _retry_after(reply.getheader("Retry-After"), self._wall_clock)
        except (http.client.HTTPException, OSError, zlib.error) as error:
            raise _as_fetch_error(error, stale) from error
        finally:
            if not keep:
                connection.close()

    def _connection(self, scheme: str) -> PinnedConnection:
        if scheme not in self._open:
            parts = urlsplit(f"{scheme}://{self.host}")
            port = parts.port or (443 if scheme == "https" else 80)
            address = self._address(parts.hostname or "", port)
            context = ssl.create_default_context() if scheme == "https" else None
            self._open[scheme] = PinnedConnection(parts.hostname or "", port, address, self._limits.timeout_s, context)
        return self._open[scheme]

    def _address(self, name: str, port: int) -> Address:
        """Return the address to connect to: looked up once, checked, and kept for the whole crawl (DNS rebinding)."""
        mapped = (self._limits.resolve or {}).get(self.host)
        if mapped is not None:
            return self._checked([mapped[0]]), mapped[1]
        if self._pinned is None:
            try:
                found = self._lookup(name, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise FetchError("dns", f"{name}: {error}") from error
            self._pinned = self._checked([str(entry[4][0]) for entry in found])
        return self._pinned, port

    def _checked(self, addresses: list[str]) -> str:
        """Return the first address; refuse the host if any of its addresses is not public."""
        private = [address for address in addresses if not is_public(address)]
        if not addresses or (private and not self._limits.allow_private):
            raise FetchError(
                "address-refused",
                f"{self.host} is at {', '.join(private)}, not a public address; corpus.allow_private=true permits it",
            )
        return addresses[0]


class _Broken(RagHpcError):
    """A connection that broke before a whole reply came; `stale` if it may just have been closed while idle."""

    def __init__(self, detail: str, stale: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.stale = stale


def _read_body(reply: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the decoded body, never holding more than the cap and a block of what was sent.

    Raises FetchError too-large, truncated or content-encoding.
    """
    coding = reply.getheader("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise FetchError("content-encoding", coding)
    packed = coding not in ("", "identity")
    if not packed and (reply.length or 0) > max_bytes:
        raise FetchError("too-large", f"{reply.length} bytes, cap {max_bytes}")
    inflate: Any = None
    held: list[bytes] = []
    size = 0
    while block := reply.read(_BLOCK):
        if packed:
            inflate = inflate or zlib.decompressobj(_window_bits(coding, block))
            block = inflate.decompress(block, max_bytes + 1 - size)
        size += len(block)
        if size > max_bytes:
            raise FetchError("too-large", f"over {max_bytes} bytes{' when decompressed' * packed}")
        held.append(block)
    if reply.length:
        raise FetchError("truncated", f"{reply.length} bytes of the body are missing")
    if inflate is not None and not inflate.eof:
        raise FetchError("truncated", f"{coding} data ends early")
    return b"".join(held)


def _window_bits(coding: str, head: bytes) -> int:
    """Return zlib's wbits: gzip, zlib, or the bare deflate that some servers send as "deflate"."""
    if coding != "deflate":
        return 31
    zlib_head = len(head) >= 2 and head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0
    return 15 if zlib_head else -15


def _drained(reply: http.client.HTTPResponse) -> bool:
    """Return True if the small rest of an unwanted reply was read and the connection can be used again."""
    if reply.length is None and not reply.chunked:
        return False
    size = 0
    try:
        while not reply.isclosed() and size + (reply.length or 0) <= DRAIN_BYTES:
            size += len(reply.read(8192))
    except (http.client.HTTPException, OSError) as error:
        log.debug("unwanted body of status %d not read to its end: %s", reply.status, error)
        return False
    return reply.isclosed()


def _retry_after(value: str | None, wall_clock: Callable[[], float]) -> float | None:
    """Return the seconds of a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, when.timestamp() - wall_clock())


def _as_fetch_error(error: Exception, stale: bool) -> RagHpcError:
    if isinstance(error, TimeoutError):
        return FetchError("timeout", str(error) or "timed out")
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", str(error))
    if isinstance(error, http.client.IncompleteRead):
        return FetchError("truncated", "the connection closed inside the body")
    if isinstance(error, zlib.error):
        return FetchError("content-encoding", str(error))
    if isinstance(error, OSError):
        return _Broken(f"{type(error).__name__}: {error}", stale)
    return FetchError("bad-response", f"{type(error).__name__}: {str(error)[:200]}")
