"""Serial GET requests to one host: a pinned public address, retries with growing waits, resumed downloads, caps."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.errors import ConfigError, InputError, Interrupted
from rag_hpc.sources.base import MAX_WAIT_S, TOTAL_FACTOR, FetchConfig
from rag_hpc.sources.crawl.site import check_user_agent
from rag_hpc.sources.crawl.urls import host_key, host_name, is_public, normalise_url

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MAX_TRIES = 6  # in a row without progress: waits of 1, 2, 4, 8 and 16 s
PROGRESS_BYTES = 1 << 16
MAX_DIGITS = 18  # of a length
_AGAIN = (408, 429, 500, 502, 503, 504)


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

    def __init__(self, url: str, corpus: FetchConfig, waits: Waits) -> None:
        known = normalise_url(url)
        if known is None:
            raise ConfigError(f"corpus.base={url!r}: an http(s) URL with a host is needed")
        key, parts = host_key(known), urlsplit(known)
        check_user_agent(corpus.user_agent, [key])
        self.waits = waits
        self._host, self._port, self._scheme = host_name(key), parts.port, parts.scheme
        self._timeout_s = corpus.timeout_s
        self._allow_private = corpus.allow_private
        self._headers = {
            "Host": key,
            "User-Agent": corpus.user_agent,
            "Accept-Encoding": "identity",
            "Connection": "close",
        }

    def get(self, target: str, cap: int) -> tuple[httpx.Headers, bytes]:
        """Return headers and body of the 200 reply to GET `target` (path and query).

        Raises Refused: http-NNN, too-large. Raises InputError after MAX_TRIES, and Interrupted.
        """
        body = bytearray()
        for sent, chunk in self._download(target, cap, restart=True):
            if not chunk:
                body.clear()
            body += chunk
            headers = sent
        return headers, bytes(body)

    def stream(self, target: str, cap: int) -> Generator[bytes, None, None]:
        """Yield the body of GET `target`, also over broken connections: it goes on where it stopped (RFC 9110, 14).

        Raises what `get` raises, and InputError if the file changed meanwhile.
        """
        for _, chunk in self._download(target, cap, restart=False):
            if chunk:
                yield chunk

    def _download(self, target: str, cap: int, restart: bool) -> Iterator[tuple[httpx.Headers, bytes]]:
        """Yield (headers, b"") at the start of a reply, then its chunks; `restart` begins anew after a break."""
        import httpx

        done = tries = mark = 0
        first: httpx.Headers | None = None
        while True:
            self.waits.check()
            wait_s = 2.0**tries
            try:
                with self._asked(target, 0 if restart else done, first) as reply:
                    if reply.status_code in _AGAIN:
                        wait_s = max(wait_s, retry_after_s(reply.headers.get("Retry-After", ""), time.time()) or 0.0)
                        raise ConnectionError(f"status {reply.status_code}")
                    skip = _known(reply, target, 0 if restart else done, first)
                    first = first or reply.headers
                    done = 0 if restart else done
                    yield reply.headers, b""
                    deadline_s = time.monotonic() + self._timeout_s * TOTAL_FACTOR
                    for chunk in reply.iter_raw():
                        self.waits.check()
                        if restart and time.monotonic() > deadline_s:
                            raise TimeoutError("the reply comes too slowly")
                        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        done += len(chunk)
                        if done > cap:
                            raise Refused("too-large", f"{target}: over {cap} bytes")
                        yield reply.headers, chunk
                    total = reply.headers.get("Content-Range", "").rpartition("/")[
                        2
                    ]  # a piece may be a part of the rest
                    if not total.isdecimal() or len(total) > MAX_DIGITS or done >= int(total):
                        return
                    raise ConnectionError("the reply is a part of what was asked for")
            except (OSError, httpx.TransportError) as error:
                tries, mark = (1, done) if done > mark + PROGRESS_BYTES else (tries + 1, mark)
                if tries == MAX_TRIES or wait_s > MAX_WAIT_S:
                    raise InputError(
                        f"{self._host}{target}: gave up after {tries} tries, {done} bytes came "
                        f"({type(error).__name__}: {error}); try again later"
                    ) from error
                log.info("%s%s: %s after %d bytes; next try in %g s", self._host, target, error, done, wait_s)
            self.waits.pause(wait_s)

    @contextlib.contextmanager
    def _asked(self, target: str, start: int, first: httpx.Headers | None) -> Iterator[httpx.Response]:
        """Ask the address that was looked up and checked; the certificate must be of the host's name."""
        import ssl  # which planning a run does without

        import httpx

        headers = dict(self._headers)
        if start and first is not None:
            headers["Range"] = f"bytes={start}-"
            tag = first.get("ETag", "")
            if tag and tag.isascii() and tag.isprintable() and not tag.startswith("W/"):
                headers["If-Range"] = tag
        url = httpx.URL(scheme=self._scheme, host=self._address(), port=self._port, raw_path=target.encode())
        named = {"sni_hostname": self._host}
        # no proxy, and no certificates but the system's; a client a request: none keeps cookies
        with httpx.Client(verify=ssl.create_default_context(), timeout=self._timeout_s, trust_env=False) as client:
            with client.stream("GET", url, headers=headers, extensions=named) as reply:
                yield reply

    def _address(self) -> str:
        """Return the host's first address. Raises ConfigError if any is not public, unless private ones are allowed."""
        found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        addresses = [str(item[4][0]) for item in found]
        if not self._allow_private and not all(map(is_public, addresses)):
            raise ConfigError(
                f"corpus.base: {self._host} is at {', '.join(addresses)}, no public address; if that is "
                "meant, set corpus.allow_private=true"
            )
        return addresses[0]


def _known(reply: httpx.Response, target: str, start: int, first: httpx.Headers | None) -> int:
    """Return how many bytes of the reply are known already. Raises Refused, or InputError if the file changed."""
    sent = reply.headers
    if reply.status_code not in (200, 206):
        raise Refused(f"http-{reply.status_code}", f"{target} {sent.get('Location', '')}".strip())
    if first is None or not start:
        return 0
    for name in ("ETag", "Last-Modified"):
        if first.get(name) and sent.get(name) and first[name] != sent[name]:
            raise InputError(f"{target}: changed while it was read ({name}); run again: rag-hpc retry")
    if reply.status_code == 206:
        if not sent.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise InputError(f"{target}: asked for bytes from {start}, got {sent.get('Content-Range')}")
        return 0
    return start
