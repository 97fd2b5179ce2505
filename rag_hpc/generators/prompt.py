"""The prompt's settings, and its budget in the tokens of the model that reads it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.algo.answer.answers import NOT_FOUND
from rag_hpc.algo.answer.pack import pack
from rag_hpc.algo.answer.prompt import QUESTION, SYSTEM, Passage, Turn, build_prompt
from rag_hpc.core.settings import bounded, check_bounds, path_field
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.folder import max_positions

CHARS_PER_TOKEN = 3  # where no tokenizer is at hand: fewer than in English prose, some 4, so that code fits too
CHAT_TOKENS = 64  # left for what a chat template puts around two messages


class Order(enum.Enum):
    """How passages follow each other in the prompt, once they are chosen."""

    rank = "rank"  # the best first
    document = "document"  # as in their documents: questions of the same passages then begin alike, for prefix caches


@dataclass(kw_only=True)
class PromptConfig:
    """What a language model is told: the rules first, the same for all questions, then passages, then the question.

    `{not_found}` in the rules is the words that say that there is no answer; without them none can be recognised.
    """

    name: str = "cited"
    system: str = SYSTEM
    question: str = QUESTION
    order: Order = Order.rank
    max_tokens: int = bounded(4096, 0)  # of the whole prompt; 0 = as many as the model takes
    # folder whose tokenizer counts; "" = that of the model, and characters where the model is known by its name alone
    tokenizer: str = path_field("")

    def __post_init__(self) -> None:
        check_bounds(self, "prompt")
        if "{not_found}" not in self.system:
            raise ConfigError(
                "prompt.system: {not_found} does not stand in it, so that a model could not say that the passages hold "
                f'no answer; e.g. "... If they do not hold the answer, reply exactly: {{not_found}}" ({NOT_FOUND})'
            )
        if self.question.count("{question}") != 1:
            raise ConfigError(f"prompt.question={self.question!r}: {{question}} has to stand in it once")

    def messages(self, question: str, passages: Sequence[Passage], before: Sequence[Turn] = ()) -> list[dict[str, str]]:
        """Return the chat messages for a question; before: what was said until then."""
        return build_prompt(question, passages, self.system, self.question, before)


class Packer:
    """Chooses the passages of a prompt for one generator."""

    def __init__(self, prompt: PromptConfig, generator: GeneratorConfig) -> None:
        """Raises InputError for a folder without tokenizer."""
        self._prompt = prompt
        model = Path(generator.model) if generator.name is not GeneratorName.openai else None
        folder = Path(prompt.tokenizer) if prompt.tokenizer else model
        self._tokenizer = _tokenizer(folder) if folder is not None else None
        room = [prompt.max_tokens] if prompt.max_tokens else []
        held = generator.vllm.max_model_len or (max_positions(model) if model is not None else None)
        room += [held - generator.max_tokens] if held and model is not None else []
        self._limit = min(room) - CHAT_TOKENS if room else None

    def select(
        self, question: str, passages: Sequence[Passage], before: Sequence[Turn] = ()
    ) -> tuple[list[Passage], dict[str, int]]:
        """Return the passages in the prompt's order, and what was left out, by the names that the record has for it."""
        fixed = sum(self.count(message["content"]) for message in self._prompt.messages(question, [], before))
        kept, counts = pack(passages, None if self._limit is None else max(0, self._limit - fixed), self.count)
        if self._prompt.order is Order.document:
            kept = sorted(kept, key=lambda passage: (passage.doc_id, passage.start, passage.chunk_id))
        estimated = {} if self._tokenizer is not None else {"prompts_counted_by_characters": 1}
        return kept, {**{f"passages_{name}": number for name, number in counts.items()}, **estimated}

    def count(self, text: str) -> int:
        """Return the text's tokens, without special ones; by its characters where there is no tokenizer."""
        if self._tokenizer is None:
            return -(-len(text) // CHARS_PER_TOKEN)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        found: Any = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"generator: {path} is no tokenizer ({error}); set prompt.tokenizer to a model's folder"
        ) from error
    found.no_truncation()  # a file may ask for both
    found.no_padding()
    return found
