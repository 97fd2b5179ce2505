"""A generator behind any endpoint that speaks the OpenAI chat protocol (vLLM, llama.cpp, a hosted service)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.errors import ClusterError
from rag_hpc.generators.base import Answer, answer_of, not_found
from rag_hpc.generators.chat import Chat
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.prompt import PromptConfig
from rag_hpc.models.endpoint import How


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

        uds, sleep, jitter: as of models.endpoint.How.
        """
        self._config, self._prompt = config, prompt or PromptConfig()
        too_long = "the prompt may be longer than the model takes; lower stage.generate.k or generator.max_tokens"
        how = How(too_long=too_long, uds=uds, sleep=sleep, jitter=jitter)
        self._chat = Chat(config, "generator", check_stop, how)

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the model's answer; without passages the model is not asked. Raises InputError or ClusterError."""
        if not passages:
            return not_found()
        text, counts = self._chat.say(self._prompt.messages(question, passages), self._config.max_tokens)
        return answer_of(text, len(passages), counts)

    def answers(self) -> bool:
        """Return whether the endpoint gives one token; asked once. Raises ClusterError when it refuses to."""
        endpoint = self._chat.endpoint
        reply = endpoint.once(self._chat.body([{"role": "user", "content": "1"}], 1))
        if reply is not None and reply.refuses:
            said = endpoint.masked(reply.body.decode("utf-8", "replace"))[:300]
            raise ClusterError(f"it refuses to answer: HTTP {reply.status}: {said}")
        return reply is not None and reply.status == 200

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""
