"""An endpoint that speaks one of OpenAI's protocols over HTTP: posts, retries, keys.

It is not trusted: a reply has a time and a size that it may not exceed, and whatever is said of it is freed of the key
before it is cut, logged or raised.
"""

from __future__ import annotations

import logging
import os
import random
import re
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.core.trust import account
from rag_hpc.errors import ClusterError, InputError

log = logging.getLogger(__name__)

TRIES = 3
MAX_WAIT_S = 30.0
POLL_S = 0.1  # how soon a wait hears that it has to end
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_THIS_ONE = (400, 413, 422)  # others may be taken all the same
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEY = re.compile(r"[!-~]{1,4096}")  # printable ASCII without a space


class Address(Protocol):
    """The settings that say where an endpoint is, and how long it may take."""

    base_url: str
    api_key_env: str
    api_key_file: str
    timeout_s: float


class Refused(InputError):
    """The endpoint takes no such request: it is too long, or asks for what the server does not know."""


class Unreachable(ClusterError):
    """The endpoint did not answer in as many tries as it is given."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint said."""

    status: int
    retry_after: str
    body: bytes

    @property
    def refuses(self) -> bool:
        """Whether asking again would not help."""
        return 400 <= self.status < 500 and self.status not in _RETRIED


@dataclass(frozen=True, kw_only=True)
class How:
    """How an endpoint is asked."""

    too_long: str = ""  # what helps where it takes no such text
    max_reply_bytes: int = 4 << 20  # decoded; an answer of 4,096 tokens has some 20 KB
    uds: Path | None = None  # the Unix socket that it listens on
    sleep: Callable[[float], None] | None = None
    jitter: Callable[[], float] = random.random  # 0 to 1: those turned away together do not come back together


class Endpoint:
    """Posts to one address, from any number of threads."""

    def __init__(
        self,
        config: Address,
        path: str,
        group: str,
        check_stop: Callable[[], None] = lambda: None,
        how: How | None = None,
    ) -> None:
        """Raises InputError when the key cannot be read. Nothing is sent yet. `check_stop` raises to end a wait.

        path: below base_url. group: of the settings, for messages.
        """
        import httpx

        url = urlsplit(config.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(
                f"{group}: base_url={config.base_url!r} is no http(s) address; e.g. http://127.0.0.1:8000/v1"
            )
        self._config, self._group, self._check_stop = config, group, check_stop
        self._how = how or How()
        self._sleep = self._how.sleep or self._pause
        self._key = read_key(config, group)
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._options: dict[str, Any] = {
            "headers": {"Accept-Encoding": "gzip", **key},
            "timeout": config.timeout_s,
            # a proxy set for the outside world must not see what goes to this machine
            "trust_env": url.hostname not in _LOOPBACK,
            "follow_redirects": False,
            "verify": httpx.create_ssl_context() if url.scheme == "https" else False,
        }
        self.url = f"{config.base_url.rstrip('/')}/{path}"

    def once(self, body: dict[str, Any]) -> Reply | None:
        """Return the reply to one try, None where there was none in time."""
        import asyncio  # which planning a run does without

        import httpx

        try:
            return asyncio.run(self._in_time(body))
        except (TimeoutError, httpx.TransportError):
            return None

    def post(self, body: dict[str, Any]) -> bytes:
        """Return the body of the endpoint's reply, after up to three tries where another may help.

        Raises InputError where it refuses, Unreachable, and whatever check_stop raises.
        """
        import asyncio

        import httpx

        trouble = ""
        for attempt in range(TRIES):
            wait_s = 2.0**attempt
            try:
                reply = asyncio.run(self._in_time(body))  # a wait that can be ended, whatever the endpoint does
            except TimeoutError:
                trouble = f"no whole reply within {self._config.timeout_s:g} s"
            except httpx.TransportError as error:
                trouble = self.masked(f"{type(error).__name__}: {error}")
            else:
                if reply.status == 200:
                    return reply.body
                said = self.masked(reply.body.decode("utf-8", "replace"))
                trouble = f"HTTP {reply.status}: {said[:300]}"
                if reply.status not in _RETRIED:
                    kind = Refused if reply.status in _THIS_ONE else InputError
                    raise kind(f"{self._group}: {self.url} refused: {trouble}; {self._remedy(reply.status)}")
                asked_s = retry_after_s(reply.retry_after, time.time())
                wait_s = wait_s if asked_s is None else min(asked_s, MAX_WAIT_S)
            log.debug("%s: try %d of %d failed: %s", self._group, attempt + 1, TRIES, trouble)
            if attempt + 1 < TRIES:
                self._sleep(wait_s * (1 + 0.5 * self._how.jitter()))
        raise Unreachable(
            f"{self._group}: {self.url} did not answer in {TRIES} tries ({trouble}); check that the server runs and is "
            f"reachable from this node, or raise {self._group}.timeout_s"
        )

    def masked(self, text: str) -> str:
        """Return the text without the key."""
        return text.replace(self._key, "***") if self._key else text

    async def _in_time(self, body: dict[str, Any]) -> Reply:
        """Return the reply. Raises TimeoutError when it is not whole in time, and whatever check_stop raises."""
        import asyncio

        end = time.monotonic() + self._config.timeout_s
        asked = asyncio.create_task(self._ask(body))
        try:
            while not asked.done():
                self._check_stop()
                if (left_s := end - time.monotonic()) <= 0:
                    raise TimeoutError
                await asyncio.wait({asked}, timeout=min(POLL_S, left_s))
            return asked.result()
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def _ask(self, body: dict[str, Any]) -> Reply:
        """Return the reply. Raises ClusterError for one that is too long, packed or not."""
        import httpx

        transport = httpx.AsyncHTTPTransport(uds=str(self._how.uds)) if self._how.uds else None
        options = {**self._options, "transport": transport}
        async with httpx.AsyncClient(**options) as client, client.stream("POST", self.url, json=body) as reply:
            raw, most = bytearray(), self._how.max_reply_bytes
            async for part in reply.aiter_raw():
                raw += part
                if len(raw) > most:
                    break
            packed = reply.headers.get("content-encoding", "") in ("gzip", "x-gzip")
            unpacked = _unpacked(raw, most) if packed else bytes(raw)
            if len(unpacked) > most:
                raise ClusterError(
                    f"{self._group}: {self.url}: its reply is longer than {most >> 20} MiB, which is "
                    f"no answer; check {self._group}.base_url"
                )
            return Reply(reply.status_code, reply.headers.get("retry-after", ""), unpacked)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(POLL_S, left_s))

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            return f"check the key ({self._group}.api_key_env or {self._group}.api_key_file)"
        if status == 404:
            return f"check {self._group}.base_url (it ends in /v1 as a rule) and {self._group}.model"
        if status in _THIS_ONE and self._how.too_long:
            return self._how.too_long
        return f"check {self._group}.base_url"


def read_key(config: Address, group: str) -> str:
    """Return the key from the named variable or file, "" where neither is named. The file must be ours alone.

    Raises InputError, which never shows it.
    """
    if config.api_key_env:
        key, place = os.environ.get(config.api_key_env, "").strip(), f"the variable {config.api_key_env}"
        if not key:
            raise InputError(f"{group}: {place} is empty; export it or use api_key_file")
    elif config.api_key_file:
        key, place = _key_in(Path(config.api_key_file).expanduser(), group), f"api_key_file {config.api_key_file}"
    else:
        return ""
    if not _KEY.fullmatch(key):
        raise InputError(
            f"{group}: {place} holds no key: one word of printable ASCII is needed, at most 4096 characters"
        )
    return key


def _key_in(path: Path, group: str) -> str:
    if not path.is_file():
        raise InputError(f"{group}: api_key_file {path} does not exist; write the key there with mode 600")
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(f"{group}: api_key_file {path} can be read by others; run: chmod 600 {path}")
    if found.st_uid not in (os.geteuid(), 0):
        raise InputError(f"{group}: api_key_file {path} belongs to {account(found.st_uid)}; use a file of your own")
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(1 << 14).strip()


def _unpacked(raw: bytes | bytearray, most: int) -> bytes:
    """Return what gzip packed, a byte more than is allowed at most; nothing where it is no gzip."""
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, most + 1)
    except zlib.error:
        return b""
