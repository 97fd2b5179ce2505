"""A generator behind any endpoint that speaks the OpenAI chat protocol (vLLM, llama.cpp, a hosted service)."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.algo.answers import is_not_found
from rag_hpc.algo.cite import parse_citations
from rag_hpc.algo.prompt import Passage, build_prompt
from rag_hpc.errors import ClusterError, InputError
from rag_hpc.generators.base import Answer, not_found
from rag_hpc.generators.config import GeneratorConfig

log = logging.getLogger(__name__)

TRIES = 3
MAX_WAIT_S = 30.0
_SEED = 0
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class OpenAIGenerator:
    """Asks the endpoint at temperature 0 with a fixed seed; the model may still vary a little between batches."""

    def __init__(self, config: GeneratorConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises InputError when the key cannot be read. Nothing is sent yet."""
        import httpx

        url = urlsplit(config.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(f"generator: base_url={config.base_url!r} is no http(s) address; e.g. http://127.0.0.1:8000/v1")
        self._config, self._sleep = config, sleep
        self._key = read_key(config)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # a proxy set for the outside world must not see what goes to this machine
        self._client = httpx.Client(
            headers=headers, timeout=config.timeout_s, trust_env=url.hostname not in _LOOPBACK, follow_redirects=False
        )
        self._url = config.base_url.rstrip("/") + "/chat/completions"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the model's answer; without passages the model is not asked. Raises InputError or ClusterError."""
        if not passages:
            return not_found()
        body = {
            "model": self._config.model,
            "messages": build_prompt(question, passages),
            "max_tokens": self._config.max_tokens,
            "temperature": 0,
            "seed": _SEED,
        }
        text = self._text(self._post(body))
        if is_not_found(text):
            return not_found()
        citations = [n for n in parse_citations(text) if n <= len(passages)]
        return Answer(text=text, citations=citations, found=True, short=text)

    def _post(self, body: dict[str, Any]) -> Any:
        """Return the endpoint's reply, after up to three tries where another may help."""
        import httpx

        trouble = ""
        for attempt in range(TRIES):
            wait_s = 2.0**attempt
            try:
                reply = self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if reply.status_code == 200:
                    return reply
                trouble = f"HTTP {reply.status_code}: {self._without_key(reply.text[:300])}"
                if reply.status_code not in _RETRIED:
                    raise InputError(f"generator: {self._url} refused: {trouble}; {_remedy(reply.status_code)}")
                wait_s = _asked_wait(reply.headers.get("retry-after", ""), wait_s)
            log.debug("generator: try %d of %d failed: %s", attempt + 1, TRIES, trouble)
            if attempt + 1 < TRIES:
                self._sleep(wait_s)
        raise ClusterError(
            f"generator: {self._url} did not answer in {TRIES} tries ({trouble}); check that the server runs and is "
            "reachable from this node, or raise generator.timeout_s"
        )

    def _text(self, reply: Any) -> str:
        """Return the answer's text from a reply of status 200."""
        try:
            choice = reply.json()["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            said = self._without_key(reply.text[:200])
            raise ClusterError(f"generator: {self._url} does not speak the OpenAI chat protocol: {said!r}") from error
        if not isinstance(text, str):
            raise ClusterError(
                f"generator: {self._config.model} gave no text (finish_reason={choice.get('finish_reason')!r}); "
                "raise generator.max_tokens"
            )
        return text.strip()

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def read_key(config: GeneratorConfig) -> str:
    """Return the key from the named variable or file, "" where neither is named. The file must be its owner's alone."""
    if config.api_key_env:
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:
            raise InputError(f"generator: the variable {config.api_key_env} is empty; export it or use api_key_file")
        return key
    if not config.api_key_file:
        return ""
    path = Path(config.api_key_file).expanduser()
    if not path.is_file():
        raise InputError(f"generator: api_key_file {path} does not exist; write the key there with mode 600")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(f"generator: api_key_file {path} can be read by others; run: chmod 600 {path}")
    return path.read_text(encoding="utf-8").strip()


def _asked_wait(retry_after: str, fallback_s: float) -> float:
    """Return the seconds that the server asks for, within reason."""
    return min(float(retry_after), MAX_WAIT_S) if retry_after.isdecimal() else fallback_s


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check the key (generator.api_key_env or generator.api_key_file)"
    if status == 404:
        return "check generator.base_url (it ends in /v1 as a rule) and generator.model"
    if status in (400, 413, 422):
        return "the prompt may be longer than the model takes; lower stage.generate.k or generator.max_tokens"
    return "check generator.base_url"
