"""Serial GET requests to one host: a pinned public address, retries with growing waits, resumed downloads, caps."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

from rag_hpc.errors import ConfigError, InputError, Interrupted
from rag_hpc.sources.base import CorpusConfig
from rag_hpc.sources.compress import CHUNK
from rag_hpc.sources.site import check_user_agent
from rag_hpc.sources.urls import is_public

log = logging.getLogger(__name__)

MAX_TRIES = 6  # in a row without progress: waits of 1, 2, 4, 8 and 16 s
PROGRESS_BYTES = 1 << 16
MAX_WAIT_S = 120.0  # of a Retry-After
TOTAL_FACTOR = 3  # a reply of `get` may take this many times what may pass without a byte
MAX_DIGITS = 18  # of a length
_AGAIN = (408, 429, 500, 502, 503, 504)
_BROKEN = (OSError, http.client.HTTPException)


class Refused(InputError):
    """A reply that will be the same next time, such as 404; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(kw_only=True)
class Waits:
    """How to wait, and when to stop."""

    sleep: Callable[[float], None]
    should_stop: Callable[[], bool]

    def check(self) -> None:
        """Raise Interrupted when the worker was told to stop."""
        if self.should_stop():
            raise Interrupted("download: stopped; run again to go on")

    def pause(self, wait_s: float) -> None:
        """Sleep in slices of at most a second, so that a stop is seen in time."""
        while wait_s > 0:
            self.check()
            self.sleep(min(wait_s, 1.0))
            wait_s -= 1.0
        self.check()


class Remote:
    """One host, asked one request at a time. Redirects are not followed."""

    def __init__(self, url: str, corpus: CorpusConfig, waits: Waits) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"corpus.base={url!r}: an http(s) URL with a host is needed")
        check_user_agent(corpus, {parts.netloc: None})
        self.waits = waits
        self._host, self._port, self._tls = parts.hostname, parts.port, parts.scheme == "https"
        self._timeout_s = corpus.timeout_s
        self._allow_private = corpus.allow_private
        self._headers = {"User-Agent": corpus.user_agent, "Accept-Encoding": "identity", "Connection": "close"}

    def get(self, target: str, cap: int) -> tuple[Message, bytes]:
        """Return headers and body of the 200 reply to GET `target` (path and query).

        Raises Refused: http-NNN, too-large. Raises InputError after MAX_TRIES, and Interrupted.
        """
        body = bytearray()
        headers = Message()
        for sent, chunk in self._download(target, restart=True):
            if not chunk:
                body.clear()
            body += chunk
            headers = sent
            if len(body) > cap:
                raise Refused("too-large", f"{target}: over {cap} bytes")
        return headers, bytes(body)

    def stream(self, target: str) -> Generator[bytes, None, None]:
        """Yield the body of GET `target`, also over broken connections: it goes on where it stopped (RFC 9110, 14).

        Raises what `get` raises, and InputError if the file changed meanwhile.
        """
        for _, chunk in self._download(target, restart=False):
            if chunk:
                yield chunk

    def _download(self, target: str, restart: bool) -> Iterator[tuple[Message, bytes]]:
        """Yield (headers, b"") at the start of a reply, then its chunks; `restart` begins anew after a break."""
        done = tries = mark = 0
        first: Message | None = None
        while True:
            self.waits.check()
            wait_s = 2.0**tries
            try:
                with self._asked(target, 0 if restart else done, first) as reply:
                    if reply.status in _AGAIN:
                        wait_s = max(wait_s, retry_after(reply.headers))
                        raise http.client.HTTPException(f"status {reply.status}")
                    skip = _known(reply, target, 0 if restart else done, first)
                    first = first or reply.headers
                    done = 0 if restart else done
                    yield reply.headers, b""
                    deadline_s = time.monotonic() + self._timeout_s * TOTAL_FACTOR
                    while chunk := reply.read1(CHUNK):
                        self.waits.check()
                        if restart and time.monotonic() > deadline_s:
                            raise TimeoutError("the reply comes too slowly")
                        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        done += len(chunk)
                        yield reply.headers, chunk
                    if _is_whole(reply.headers, done):
                        return
                    raise http.client.HTTPException("the connection closed inside the body")
            except _BROKEN as error:
                tries, mark = (1, done) if done > mark + PROGRESS_BYTES else (tries + 1, mark)
                if tries == MAX_TRIES or wait_s > MAX_WAIT_S:
                    raise InputError(f"{self._host}{target}: gave up after {tries} tries, {done} bytes came "
                                     f"({type(error).__name__}: {error}); try again later") from error
                log.info("%s%s: %s after %d bytes; next try in %g s", self._host, target, error, done, wait_s)
            self.waits.pause(wait_s)

    @contextlib.contextmanager
    def _asked(self, target: str, start: int, first: Message | None) -> Iterator[http.client.HTTPResponse]:
        headers = dict(self._headers)
        if start and first is not None:
            headers["Range"] = f"bytes={start}-"
            if first["ETag"] and not first["ETag"].startswith("W/"):
                headers["If-Range"] = first["ETag"]
        connection = _Pinned(self._host, self._port or (443 if self._tls else 80), self._address(), self._timeout_s,
                             ssl.create_default_context() if self._tls else None)
        with contextlib.closing(connection):
            connection.request("GET", target, headers=headers)
            with contextlib.closing(connection.getresponse()) as reply:
                yield reply

    def _address(self) -> str:
        """Return the host's first address. Raises ConfigError if any is not public, unless private ones are allowed."""
        found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        addresses = [str(item[4][0]) for item in found]
        if not self._allow_private and not all(map(is_public, addresses)):
            raise ConfigError(f"corpus.base: {self._host} is at {', '.join(addresses)}, no public address; if that is "
                              "meant, set corpus.allow_private=true")
        return addresses[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to an address chosen beforehand; the certificate is checked against the host's name."""

    def __init__(self, host: str, port: int, address: str, timeout_s: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self.default_port = 80 if context is None else 443  # decides whether the Host header names the port
        self._pin, self._context = address, context

    def connect(self) -> None:
        """Connect to the pinned address."""
        self.sock = socket.create_connection((self._pin, self.port), self.timeout)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def _known(reply: http.client.HTTPResponse, target: str, start: int, first: Message | None) -> int:
    """Return how many bytes of the reply are known already. Raises Refused, or InputError if the file changed."""
    if reply.status not in (200, 206):
        raise Refused(f"http-{reply.status}", f"{target} {reply.headers['Location'] or ''}".strip())
    if first is None or not start:
        return 0
    for name in ("ETag", "Last-Modified"):
        if first[name] != reply.headers[name] and first[name] and reply.headers[name]:
            raise InputError(f"{target}: changed while it was read ({name}); run again: rag-hpc retry")
    if reply.status == 206:
        if not str(reply.headers["Content-Range"]).startswith(f"bytes {start}-"):
            raise InputError(f"{target}: asked for bytes from {start}, got {reply.headers['Content-Range']}")
        return 0
    return start


def _is_whole(headers: Message, done: int) -> bool:
    """Return False if fewer than the announced bytes came; http.client does not tell when it is asked for a piece."""
    total = str(headers["Content-Range"] or "").rpartition("/")[2] or headers["Content-Length"] or ""
    return not total.isdecimal() or len(total) > MAX_DIGITS or done >= int(total)


def retry_after(headers: Message) -> float:
    """Return the seconds that a reply asks to wait, 0 if it does not say (its dates are not read)."""
    value = str(headers["Retry-After"] or "")
    return float(value) if value.isdecimal() else 0.0
