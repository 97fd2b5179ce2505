"""One host's client: a pinned address, one request at a time, and never two requests closer than the delay."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.errors import RagHpcError
from rag_hpc.sources.base import MAX_WAIT_S
from rag_hpc.sources.crawl.config import Address, mapped
from rag_hpc.sources.crawl.connection import Broken, Connection
from rag_hpc.sources.crawl.journal import Ask, Reply
from rag_hpc.sources.crawl.urls import host_name, is_public

log = logging.getLogger(__name__)

MAX_TRIES = 3
MARGIN_S = 0.005  # added to each delay, or MARGIN of a short one: a request may be held up on its way
MARGIN = 0.05
WINDOW = 16  # replies whose quickest says how long a server takes
_BUSY = (429, 503)

Sleep = Callable[[float], Awaitable[Any]]
Validators = Callable[[str], "tuple[str, str] | None"]  # URL -> ETag and Last-Modified of a page that we have


class FetchError(RagHpcError):
    """A host that cannot be asked; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(kw_only=True)
class Network:
    """What the clients of a crawl share. Make it inside the event loop."""

    user_agent: str
    timeout_s: float
    allow_private: bool = False
    max_ratio: float = 200.0
    resolve: dict[str, Address] = field(default_factory=dict)  # host key, or a pattern of them -> where it is served
    validators: Validators = lambda url: None
    sleep: Sleep = asyncio.sleep
    lookup: Callable[..., Awaitable[Any]] | None = None  # like loop.getaddrinfo
    concurrency: int = 256
    slots: asyncio.Semaphore = field(init=False)
    busy: set[Connection] = field(default_factory=set)
    num_open: int = 0

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.concurrency)
        # asyncio's own few threads would let look-ups that hang time out those that wait behind them
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.concurrency, "lookup"))
        self.max_open = max(self.concurrency, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._tls: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext:
        """Return the context of all HTTPS connections: certificates are verified."""
        self._tls = self._tls or ssl.create_default_context()
        return self._tls

    def check(self) -> None:
        """End the requests whose replies are late."""
        now_s = time.monotonic()
        for connection in list(self.busy):
            connection.check(now_s)


class Pace:
    """When the next request to a host may start; clients of several ports of a host share it.

    The server must see two requests at least `delay_s` apart, and sees when they arrive, not when they left. A reply
    that took longer than the quickest lately may be to a request that arrived late, so the delay counts from then; the
    first ones, with nothing to compare, count from their replies.
    """

    def __init__(self, delay_s: float, sleep: Sleep, *, last_s: float | None = None) -> None:
        """`last_s`: when somebody else may have made a request last (time.monotonic)."""
        self.delay_s = delay_s
        self.free_s = 0.0  # the host asked for nothing before (time.monotonic)
        self._sleep = sleep
        self.one_at_a_time = asyncio.Lock()
        self._base_s = last_s
        self._took_s: deque[float] = deque(maxlen=WINDOW)

    async def turn(self) -> None:
        """Return when the next request may start."""
        due_s = self.free_s
        if self.delay_s > 0 and self._base_s is not None:
            due_s = max(due_s, self._base_s + self.delay_s + min(MARGIN_S, MARGIN * self.delay_s))
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            await self._sleep(wait_s)
        self._base_s = time.monotonic()

    def ended(self, begun_s: float, first_s: float) -> None:
        """Note when a request went out and when the first byte of its reply came (0: never)."""
        if not first_s:
            self._base_s = time.monotonic()
            return
        self._base_s = first_s - (min(self._took_s) if len(self._took_s) > 1 else 0.0)
        self._base_s = max(self._base_s, begun_s)
        self._took_s.append(first_s - begun_s)


class HostClient:
    """Fetches URLs of one host key, one after the other at the host's pace, over one kept connection per scheme."""

    def __init__(self, host: str, network: Network, pace: Pace) -> None:
        self.host, self.pace = host, pace
        self._network = network
        self._pinned: Address | None = None
        self._open: dict[str, Connection] = {}
        self._headers = (
            f" HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {network.user_agent}\r\nAccept: text/html,"
            "application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1\r\nAccept-Encoding: gzip, deflate\r\n"
        )

    async def get(self, ask: Ask) -> Reply:
        """Return the reply to a GET of `ask.url`, redirects not followed.

        429, 503, broken connections and failures of the name service that may pass are tried MAX_TRIES times. A wait
        that the host asked for holds for its other URLs too; while it is longer than MAX_WAIT_S, nothing is asked and
        the reply's error is "host-busy".
        """
        for attempt in range(1, MAX_TRIES + 1):
            last = attempt == MAX_TRIES
            wait_s = 2.0 ** (attempt - 1)
            try:
                reply = await self._once(ask)
            except Broken as error:
                if last:
                    return Reply(url=ask.url, error=error.reason, detail=error.detail, fetched_unix=time.time())
                if error.stale:
                    continue
            except FetchError as error:
                return Reply(url=ask.url, error=error.reason, detail=error.detail, fetched_unix=time.time())
            else:
                if reply.status not in _BUSY:
                    return reply
                wait_s = wait_s if reply.retry_after_s is None else reply.retry_after_s
            self.pace.free_s = time.monotonic() + wait_s
            if last or wait_s > MAX_WAIT_S:
                return reply
        raise AssertionError("the last try returns")

    def close(self) -> None:
        """Close the connections."""
        for connection in self._open.values():
            self._drop(connection)
        self._open.clear()

    async def _once(self, ask: Ask) -> Reply:
        async with self.pace.one_at_a_time:
            if self.pace.free_s - time.monotonic() > MAX_WAIT_S:  # another port may just have been told so
                raise FetchError("host-busy", f"{self.host} asked to be left alone for longer than {MAX_WAIT_S:g} s")
            await self.pace.turn()
            return await self._sent(ask)

    async def _sent(self, ask: Ask) -> Reply:
        network = self._network
        async with network.slots:
            connection = await self._connection(ask.url.split(":", 1)[0])
            network.busy.add(connection)
            begun_s = time.monotonic()
            try:
                return await connection.send(self._request(ask), ask)
            finally:
                network.busy.discard(connection)
                self.pace.ended(begun_s, connection.first_s)
                if not connection.usable or network.num_open > network.max_open:
                    self.close()

    def _request(self, ask: Ask) -> bytes:
        text = f"GET /{ask.url.split('/', 3)[3]}{self._headers}"
        known = self._network.validators(ask.url) if ask.kind == "page" else None
        for name, value in zip(("If-None-Match", "If-Modified-Since"), known or (), strict=False):
            if value and value.isascii() and value.isprintable():
                text += f"{name}: {value}\r\n"
        return f"{text}\r\n".encode("latin-1")

    async def _connection(self, scheme: str) -> Connection:
        known = self._open.get(scheme)
        if known is not None and known.usable:
            return known
        self.close()
        network, loop = self._network, asyncio.get_running_loop()
        name, port = host_name(self.host), urlsplit(f"//{self.host}").port
        address = await self._address(name, port or (443 if scheme == "https" else 80))
        secure: dict[str, Any] = {"ssl": network.tls(), "server_hostname": name} if scheme == "https" else {}
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(lambda: Connection(network.timeout_s, network.max_ratio), *address, **secure),
                network.timeout_s,
            )
        except TimeoutError as error:
            raise FetchError("timeout", f"no connection within {network.timeout_s:g} s") from error
        except ssl.SSLError as error:
            raise FetchError("tls", str(error)) from error
        except OSError as error:
            raise Broken(f"{type(error).__name__}: {error}", stale=False) from error
        network.num_open += 1
        self._open[scheme] = connection
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._network.num_open -= 1

    async def _address(self, name: str, port: int) -> Address:
        """Return the address to connect to: looked up once, checked, and kept for the whole crawl (DNS rebinding)."""
        known = mapped(self._network.resolve, self.host)
        if known is not None:
            return self._checked([known[0]]), known[1]
        if self._pinned is None:
            network = self._network
            lookup = network.lookup or asyncio.get_running_loop().getaddrinfo
            try:
                asked = lookup(name, port, type=socket.SOCK_STREAM)
                found = await asyncio.wait_for(asked, network.timeout_s)
            except TimeoutError as error:
                raise Broken(f"{name}: no answer within {network.timeout_s:g} s", stale=False, reason="dns") from error
            except (OSError, UnicodeError) as error:
                if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                    raise Broken(f"{name}: {error}", stale=False, reason="dns") from error
                raise FetchError("dns", f"{name}: {error}") from error
            self._pinned = self._checked([str(entry[4][0]) for entry in found]), port
        return self._pinned[0], port

    def _checked(self, addresses: list[str]) -> str:
        """Return the first address; refuse the host if any of its addresses is not public."""
        private = [address for address in addresses if not is_public(address)]
        if not addresses or (private and not self._network.allow_private):
            raise FetchError(
                "address-refused",
                f"{self.host} is at {', '.join(private)}, not a public address; corpus.allow_private=true permits it",
            )
        return addresses[0]
