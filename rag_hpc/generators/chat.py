"""Chat messages to an endpoint, and what its model says to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from rag_hpc.errors import ClusterError
from rag_hpc.models.endpoint import Address, Endpoint, How


class ChatSettings(Address, Protocol):
    """The settings of a model behind an endpoint."""

    model: str
    temperature: float
    seed: int


class Chat:
    """A model at an endpoint, for any number of threads."""

    def __init__(
        self,
        config: ChatSettings,
        group: str,
        check_stop: Callable[[], None] = lambda: None,
        how: How | None = None,
    ) -> None:
        """As of models.endpoint.Endpoint."""
        self._config, self._group = config, group
        self.endpoint = Endpoint(config, "chat/completions", group, check_stop, how)

    def body(self, messages: list[dict[str, str]], max_tokens: int, **more: Any) -> dict[str, Any]:
        """Return a request."""
        asked = {"model": self._config.model, "messages": messages, "max_tokens": max_tokens}
        return {**asked, "temperature": self._config.temperature, "seed": self._config.seed, **more}

    def say(self, messages: list[dict[str, str]], max_tokens: int, **more: Any) -> tuple[str, dict[str, int]]:
        """Return the model's text and what was counted of it: prompt_tokens, answer_tokens, answers_cut.

        Raises InputError or ClusterError.
        """
        return self._said(self.endpoint.post(self.body(messages, max_tokens, **more)))

    def _said(self, body: bytes) -> tuple[str, dict[str, int]]:
        endpoint, group = self.endpoint, self._group
        try:
            reply = json.loads(body)
            choice = reply["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            said = endpoint.masked(body.decode("utf-8", "replace"))[:200]
            raise ClusterError(
                f"{group}: {endpoint.url} does not speak the OpenAI chat protocol: {said!r}"
            ) from None  # what is wrong with it would quote it
        if not isinstance(text, str):
            reason = endpoint.masked(f"{choice.get('finish_reason')!r}")[:200]
            raise ClusterError(
                f"{group}: {self._config.model} gave no text (finish_reason={reason}); raise {group}.max_tokens"
            )
        counts = {"answers_cut": int(choice.get("finish_reason") == "length")}
        usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
        for name, key in (("prompt_tokens", "prompt_tokens"), ("answer_tokens", "completion_tokens")):
            if isinstance(usage.get(key), int):
                counts[name] = usage[key]
        if choice.get("finish_reason") == "abort" or counts.get("answer_tokens") == 0:
            raise ClusterError(
                f"{group}: {endpoint.url} broke an answer off before it was made; was its server told to end?"
            )
        return text.encode("utf-8", "replace").decode().strip(), counts  # half a surrogate pair could not be stored
