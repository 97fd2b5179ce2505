"""A generator behind any endpoint that speaks the OpenAI chat protocol (vLLM, llama.cpp, a hosted service).

The endpoint is not trusted: a reply has a time and a size that it may not exceed, and whatever is said of it is freed
of the key before it is cut, logged or raised.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import stat
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.algo.text.headers import retry_after_s
from rag_hpc.core.trust import account
from rag_hpc.errors import ClusterError, InputError
from rag_hpc.generators.base import Answer, answer_of, not_found
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.prompt import PromptConfig

log = logging.getLogger(__name__)

TRIES = 3
MAX_WAIT_S = 30.0
MAX_REPLY_BYTES = 4 << 20  # decoded; an answer of 4,096 tokens has some 20 KB
POLL_S = 0.1  # how soon a wait hears that it has to end
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEY = re.compile(r"[!-~]{1,4096}")  # printable ASCII without a space


@dataclass(frozen=True)
class Reply:
    """What an endpoint said."""

    status: int
    retry_after: str
    body: bytes


class OpenAIGenerator:
    """Asks the endpoint with a fixed seed, from any number of threads; even at temperature 0 a model may vary a little
    between batches."""

    def __init__(
        self,
        config: GeneratorConfig,
        check_stop: Callable[[], None] = lambda: None,
        prompt: PromptConfig | None = None,
        *,
        uds: Path | None = None,
        sleep: Callable[[float], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Raises InputError when the key cannot be read. Nothing is sent yet. `check_stop` raises to end a wait.

        uds: the Unix socket that the endpoint listens on. jitter: 0 to 1, so that those who were turned away together
        do not come back together.
        """
        import httpx

        url = urlsplit(config.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(
                f"generator: base_url={config.base_url!r} is no http(s) address; e.g. http://127.0.0.1:8000/v1"
            )
        self._config, self._check_stop, self._sleep = config, check_stop, sleep or self._pause
        self._prompt, self._uds, self._jitter = prompt or PromptConfig(), uds, jitter
        self._key = read_key(config)
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._options: dict[str, Any] = {
            "headers": {"Accept-Encoding": "gzip", **key},
            "timeout": config.timeout_s,
            # a proxy set for the outside world must not see what goes to this machine
            "trust_env": url.hostname not in _LOOPBACK,
            "follow_redirects": False,
            "verify": httpx.create_ssl_context() if url.scheme == "https" else False,
        }
        self._url = config.base_url.rstrip("/") + "/chat/completions"

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the model's answer; without passages the model is not asked. Raises InputError or ClusterError."""
        if not passages:
            return not_found()
        body = self._body(self._prompt.messages(question, passages), self._config.max_tokens)
        text, counts = self._said(self._post(body))
        return answer_of(text, len(passages), counts)

    def answers(self) -> bool:
        """Return whether the endpoint gives one token; asked once. Raises ClusterError when it refuses to."""
        import httpx

        try:
            reply = asyncio.run(self._in_time(self._body([{"role": "user", "content": "1"}], 1)))
        except (TimeoutError, httpx.TransportError):
            return False
        if 400 <= reply.status < 500 and reply.status not in _RETRIED:
            said = self._masked(reply.body.decode("utf-8", "replace"))[:300]
            raise ClusterError(f"it refuses to answer: HTTP {reply.status}: {said}")
        return reply.status == 200

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""

    def _body(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        asked = {"model": self._config.model, "messages": messages, "max_tokens": max_tokens}
        return {**asked, "temperature": self._config.temperature, "seed": self._config.seed}

    def _post(self, body: dict[str, Any]) -> bytes:
        """Return the body of the endpoint's reply, after up to three tries where another may help."""
        import httpx

        trouble = ""
        for attempt in range(TRIES):
            wait_s = 2.0**attempt
            try:
                reply = asyncio.run(self._in_time(body))  # a wait that can be ended, whatever the endpoint does
            except TimeoutError:
                trouble = f"no whole reply within {self._config.timeout_s:g} s"
            except httpx.TransportError as error:
                trouble = self._masked(f"{type(error).__name__}: {error}")
            else:
                if reply.status == 200:
                    return reply.body
                said = self._masked(reply.body.decode("utf-8", "replace"))
                trouble = f"HTTP {reply.status}: {said[:300]}"
                if reply.status not in _RETRIED:
                    raise InputError(f"generator: {self._url} refused: {trouble}; {_remedy(reply.status)}")
                asked_s = retry_after_s(reply.retry_after, time.time())
                wait_s = wait_s if asked_s is None else min(asked_s, MAX_WAIT_S)
            log.debug("generator: try %d of %d failed: %s", attempt + 1, TRIES, trouble)
            if attempt + 1 < TRIES:
                self._sleep(wait_s * (1 + 0.5 * self._jitter()))
        raise ClusterError(
            f"generator: {self._url} did not answer in {TRIES} tries ({trouble}); check that the server runs and is "
            "reachable from this node, or raise generator.timeout_s"
        )

    async def _in_time(self, body: dict[str, Any]) -> Reply:
        """Return the reply. Raises TimeoutError when it is not whole in time, and whatever check_stop raises."""
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

        transport = httpx.AsyncHTTPTransport(uds=str(self._uds)) if self._uds else None
        options = {**self._options, "transport": transport}
        async with httpx.AsyncClient(**options) as client, client.stream("POST", self._url, json=body) as reply:
            raw = bytearray()
            async for part in reply.aiter_raw():
                raw += part
                if len(raw) > MAX_REPLY_BYTES:
                    break
            packed = reply.headers.get("content-encoding", "") in ("gzip", "x-gzip")
            unpacked = _unpacked(raw) if packed else bytes(raw)
            if len(unpacked) > MAX_REPLY_BYTES:
                raise ClusterError(
                    f"generator: {self._url}: its reply is longer than {MAX_REPLY_BYTES >> 20} MiB, which is no "
                    "answer; check generator.base_url"
                )
            return Reply(reply.status_code, reply.headers.get("retry-after", ""), unpacked)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(POLL_S, left_s))

    def _said(self, body: bytes) -> tuple[str, dict[str, int]]:
        """Return the answer's text, and what was counted of it, from the body of a reply of status 200."""
        try:
            reply = json.loads(body)
            choice = reply["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            said = self._masked(body.decode("utf-8", "replace"))[:200]
            raise ClusterError(
                f"generator: {self._url} does not speak the OpenAI chat protocol: {said!r}"
            ) from None  # what is wrong with it would quote it
        if not isinstance(text, str):
            reason = self._masked(f"{choice.get('finish_reason')!r}")[:200]
            raise ClusterError(
                f"generator: {self._config.model} gave no text (finish_reason={reason}); raise generator.max_tokens"
            )
        counts = {"answers_cut": int(choice.get("finish_reason") == "length")}
        usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
        for name, key in (("prompt_tokens", "prompt_tokens"), ("answer_tokens", "completion_tokens")):
            if isinstance(usage.get(key), int):
                counts[name] = usage[key]
        if choice.get("finish_reason") == "abort" or counts.get("answer_tokens") == 0:
            raise ClusterError(
                f"generator: {self._url} broke an answer off before it was made; was its server told to end?"
            )
        return text.encode("utf-8", "replace").decode().strip(), counts  # half a surrogate pair could not be stored

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def read_key(config: GeneratorConfig) -> str:
    """Return the key from the named variable or file, "" where neither is named. The file must be ours alone.

    Raises InputError, which never shows it.
    """
    if config.api_key_env:
        key, place = os.environ.get(config.api_key_env, "").strip(), f"the variable {config.api_key_env}"
        if not key:
            raise InputError(f"generator: {place} is empty; export it or use api_key_file")
    elif config.api_key_file:
        key, place = _key_in(Path(config.api_key_file).expanduser()), f"api_key_file {config.api_key_file}"
    else:
        return ""
    if not _KEY.fullmatch(key):
        raise InputError(
            f"generator: {place} holds no key: one word of printable ASCII is needed, at most 4096 characters"
        )
    return key


def _key_in(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"generator: api_key_file {path} does not exist; write the key there with mode 600")
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(f"generator: api_key_file {path} can be read by others; run: chmod 600 {path}")
    if found.st_uid not in (os.geteuid(), 0):
        raise InputError(f"generator: api_key_file {path} belongs to {account(found.st_uid)}; use a file of your own")
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(1 << 14).strip()


def _unpacked(raw: bytes | bytearray) -> bytes:
    """Return what gzip packed, a byte more than is allowed at most; nothing where it is no gzip."""
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, MAX_REPLY_BYTES + 1)
    except zlib.error:
        return b""


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check the key (generator.api_key_env or generator.api_key_file)"
    if status == 404:
        return "check generator.base_url (it ends in /v1 as a rule) and generator.model"
    if status in (400, 413, 422):
        return "the prompt may be longer than the model takes; lower stage.generate.k or generator.max_tokens"
    return "check generator.base_url"
