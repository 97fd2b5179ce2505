"""Answers of a language model as they come, from one of the generator's replicas.

A replica that fails before anything of its answer was passed on is passed over for another, and where all fail or none
is ready, one that is soon to come is waited for; afterwards nothing is said twice. What a replica says is bounded in
time and size, and freed of the key before it is logged or told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.errors import RagHpcError
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.models.endpoint import read_key
from rag_hpc.serve.gateway.router import Replica, Router

log = logging.getLogger(__name__)
MAX_REPLY_BYTES = 4 << 20  # of one answer's events
POLL_S = 0.1  # between two looks for a replica to ask
BREAKS = 3  # of replicas over one request, before it is suspected to break them
CHARS_PER_TOKEN = 4  # for the work that is waited for; what is billed is what replicas say
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UpstreamFailed(RagHpcError):
    """No replica answered, or one broke off; `retry_after_s` is when to ask again, where that would help."""

    def __init__(
        self,
        said: str,
        retry_after_s: float | None = None,
        *,
        refused: bool = False,
        broke: bool = False,
        absent: bool = False,
    ) -> None:
        """refused: the request is wrong, not the replica. broke: it had taken the request. absent: there is none."""
        super().__init__(said)
        self.retry_after_s, self.refused, self.broke, self.absent = retry_after_s, refused, broke, absent


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A fleet's replicas, as they are found."""

    models: dict[str, str] = field(default_factory=dict)  # of those that are ready: address -> the model's name there
    key: str = field(default="", repr=False)
    identity: str = ""  # of what they answer with: equal for equal settings of the engines
    absent: str = ""  # why there is none
    lead_s: float = 1.0  # until the next one may be ready
    soon_s: float = math.inf  # the same where one is starting already
    looked: float = 0.0  # when, on time.monotonic()


@dataclass
class Prompt:
    """What a model is asked, and what was counted of its answer when it has ended."""

    messages: list[dict[str, str]]
    max_tokens: int
    until: float  # on time.monotonic()
    session: str = ""
    temperature: float = 0.0
    whole: bool = False  # is passed on at its end only, so that another replica may be asked until then
    counts: dict[str, int] = field(default_factory=dict)
    finish_reason: str = "stop"
    replica: str = ""

    @property
    def tokens(self) -> float:
        """About how much is asked for."""
        return sum(len(message["content"]) for message in self.messages) / CHARS_PER_TOKEN + self.max_tokens


class Upstream:
    """The replicas, and a pool of connections to each."""

    def __init__(self, config: GeneratorConfig, router: Router, wait_s: float = 0.0) -> None:
        """wait_s: for a replica that may be asked, at the most, and half of the time that a request has left. Raises
        InputError when the key cannot be read."""
        self._config, self.router, self._key = config, router, read_key(config, "generator")
        self._wait_s = wait_s
        self._clients: dict[str, Any] = {}
        self._seen: Seen | None = None  # of a fleet that is followed
        self._left: list[Replica] = []  # with open streams
        self.missed = False  # a request found none of a fleet's replicas
        self._waiting = 0  # requests that wait for a replica

    @property
    def ongoing(self) -> int:
        """How many requests replicas have, or wait for one."""
        return self._waiting + sum(one.requests for one in (*self.router.replicas, *self._left))

    @property
    def identity(self) -> str:
        """What answers beside the generator's settings."""
        return self._seen.identity if self._seen else ""

    async def follow(self, seen: Seen) -> None:
        """Ask these replicas from now on; streams of others end by themselves."""
        self._seen, self._key = seen, seen.key
        self._left += self.router.follow(seen.models)
        over = [one for one in self._left if not one.requests]
        self._left = [one for one in self._left if one.requests]
        used = {one.address for one in (*self._left, *self.router.replicas)}
        for address in {one.address for one in over} - used:
            if client := self._clients.pop(address, None):
                await client.aclose()

    async def stream(self, prompt: Prompt) -> AsyncIterator[str]:
        """Yield the answer piece by piece, or in one where it is wanted whole. Raises UpstreamFailed, after what came
        of an answer that breaks off."""
        failed, breaks, cut, failed_at = list[Replica](), 0, "", 0.0
        why = UpstreamFailed("all replicas are resting after failures")
        begun = time.monotonic()
        wait_until = begun + min(self._wait_s, (prompt.until - begun) / 2)
        while (replica := await self._free(prompt, failed, failed_at, wait_until)) is not None:
            prompt.counts, prompt.finish_reason, pieces, passed_on = {}, "stop", list[str](), False
            try:
                with self.router.asking(replica, prompt.tokens) as leaves:
                    async for piece in self._ask(replica, prompt):
                        leaves(prompt.max_tokens)  # the prompt is read
                        if prompt.whole:
                            pieces.append(piece)
                        else:
                            passed_on = True
                            yield piece
            except UpstreamFailed as error:
                if error.refused:
                    raise
                self.router.failed(replica, error.retry_after_s)
                log.warning("replica %s: %s", replica.address, error)
                if passed_on:
                    raise UpstreamFailed(f"the replica broke off: {error}") from error
                failed.append(replica)
                why, breaks, cut = error, breaks + error.broke, "".join(pieces) or cut
                failed_at = time.monotonic()
                if breaks == BREAKS or failed_at >= prompt.until:
                    break
            else:
                self.router.succeeded(replica)
                prompt.replica = replica.address
                if pieces:
                    yield "".join(pieces)
                return
        if cut:
            yield cut
            raise UpstreamFailed(f"the replica broke off: {why}") from why
        if self._seen and not self.router.replicas:
            self.missed = True
            raise UpstreamFailed(f"no replica answers: {self._seen.absent}", self._seen.lead_s, absent=True)
        raise UpstreamFailed(f"no replica answers: {why}", why.retry_after_s or self.router.waits_s() or 1.0)

    async def _free(self, prompt: Prompt, failed: list[Replica], failed_at: float, wait_until: float) -> Replica | None:
        """Return the replica to ask, other than those that failed the request where there is one; None when none can
        be asked soon enough. failed_at, wait_until: on time.monotonic()."""
        while (replica := self.router.pick(prompt.session, prompt.tokens, without=failed)) is None:
            if time.monotonic() + self._soon_s(failed_at) > wait_until:
                return None
            self._waiting += 1
            try:
                await asyncio.sleep(POLL_S)
            finally:
                self._waiting -= 1
            failed.clear()
        return replica

    def _soon_s(self, failed_at: float) -> float:
        """Return after how long a replica may be there to ask, at the least."""
        rests_s = self.router.waits_s() if self.router.replicas else math.inf
        if self._seen is None:
            return rests_s
        return 0.0 if self._seen.looked < failed_at else min(rests_s, self._seen.soon_s)  # others may be there by now

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _ask(self, replica: Replica, prompt: Prompt) -> AsyncIterator[str]:
        import httpx

        body = {
            "model": replica.model or self._config.model,
            "messages": prompt.messages,
            "max_tokens": prompt.max_tokens,
            "temperature": prompt.temperature,
            "seed": self._config.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        size, ended = 0, False
        try:
            async with AsyncExitStack() as stack:
                headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
                asked = self._client(replica).stream("POST", "chat/completions", json=body, headers=headers)
                async with asyncio.timeout_at(prompt.until):
                    reply = await stack.enter_async_context(asked)
                    if reply.status_code != 200:
                        raise await self._refusal(reply)
                lines = reply.aiter_lines()
                while not ended:
                    async with asyncio.timeout_at(prompt.until):  # around no yield: its time is the reader's
                        line = await anext(lines, None)
                    if line is None:
                        raise UpstreamFailed("the stream ended without its end mark", broke=True)
                    size += len(line)
                    if size > MAX_REPLY_BYTES:
                        raise UpstreamFailed(f"the reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    ended = data == "[DONE]"
                    if data and not ended and (piece := self._piece(data, prompt)):
                        yield piece
        except TimeoutError as error:
            raise UpstreamFailed("no whole answer in time") from error
        except httpx.TransportError as error:
            broke = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise UpstreamFailed(self._masked(f"{type(error).__name__}: {error}"), broke=broke) from error

    async def _refusal(self, reply: Any) -> UpstreamFailed:
        said = self._masked((await reply.aread())[:300].decode("utf-8", "replace"))
        wait_s = retry_after_s(reply.headers.get("retry-after", ""), time.time())
        refused = reply.status_code in (400, 404, 413, 422)
        return UpstreamFailed(f"HTTP {reply.status_code}: {said}", wait_s, refused=refused)

    def _piece(self, data: str, prompt: Prompt) -> str:
        """Return the text of one event, and note what it counts."""
        try:
            event = json.loads(data)
            if usage := event.get("usage"):
                prompt.counts = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens")}
            choice = event["choices"][0] if event["choices"] else {}
            prompt.finish_reason = choice.get("finish_reason") or prompt.finish_reason
            text = choice.get("delta", {}).get("content") or ""
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise UpstreamFailed(f"what came is no event of a chat: {self._masked(data)[:200]!r}") from None
        if prompt.finish_reason == "abort" or not isinstance(text, str):
            raise UpstreamFailed("the replica was told to end")
        return text.encode("utf-8", "replace").decode()

    def _client(self, replica: Replica) -> Any:
        import httpx

        if replica.address not in self._clients:
            uds = replica.address if replica.address.startswith("/") else None
            base = "http://localhost/v1/" if uds else replica.address.rstrip("/") + "/"
            self._clients[replica.address] = httpx.AsyncClient(
                base_url=base,
                timeout=self._config.timeout_s,
                transport=httpx.AsyncHTTPTransport(uds=uds) if uds else None,
                # no proxy sees what goes to this machine, or to a fleet's nodes
                trust_env=self._seen is None and urlsplit(base).hostname not in _LOOPBACK,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            )
        return self._clients[replica.address]

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
