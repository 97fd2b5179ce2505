"""A generator that loads a model's folder into this process: no server, one question after another.

It takes the likeliest token at every step. On one kind of machine, with one number of threads, an answer depends on
nothing but its question and passages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.errors import InputError
from rag_hpc.generators.base import Answer, answer_of, not_found
from rag_hpc.generators.config import GeneratorConfig
from rag_hpc.generators.folder import PLAIN_CHAT, has_chat_template, max_positions, require_model
from rag_hpc.generators.prompt import PromptConfig
from rag_hpc.models.device import Device, num_threads, resolve_device


class TransformersGenerator:
    """A causal language model with its tokenizer, on the job's GPU where it has one."""

    def __init__(self, config: GeneratorConfig, check_stop: Callable[[], None], prompt: PromptConfig) -> None:
        """Raises InputError when the folder cannot be loaded. `check_stop` is called at every token."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = require_model(config.model)
        self._config, self._check_stop, self._turn = config, check_stop, threading.Lock()
        self._prompt = prompt
        self._device = resolve_device(Device.auto)
        self._limit = max_positions(folder)
        self._template = None if has_chat_template(folder) else PLAIN_CHAT
        if self._device == "cpu":
            torch.set_num_threads(num_threads(config.threads))
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32 if self._device == "cpu" else "auto",
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"generator: the model in {folder} cannot be loaded: {error}") from error
        self._model = model.to(self._device).eval()

    def generate(self, question: str, passages: Sequence[Passage]) -> Answer:
        """Return the model's answer; without passages the model is not asked. Raises InputError."""
        if not passages:
            return not_found()
        with self._turn:
            return self._answer(self._prompt.messages(question, passages), len(passages))

    def close(self) -> None:
        """Let the model go."""
        self._model = self._tokenizer = None

    def _answer(self, messages: list[dict[str, str]], num_passages: int) -> Answer:
        import torch
        from transformers import StoppingCriteriaList

        prompt: Any = self._tokenizer.apply_chat_template(
            messages,
            chat_template=self._template,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        length = prompt["input_ids"].shape[1]
        if self._limit is not None and length + self._config.max_tokens > self._limit:
            raise InputError(
                f"generator: the prompt has {length} tokens and the answer may have {self._config.max_tokens}, but "
                f"{self._config.model} holds {self._limit} in all; lower prompt.max_tokens or generator.max_tokens"
            )
        with torch.inference_mode():
            made = self._model.generate(
                **prompt.to(self._device),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self._config.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                stopping_criteria=StoppingCriteriaList([self._at_each_token]),
            )[0, length:]
        text = self._tokenizer.decode(made, skip_special_tokens=True).strip()
        ended = len(made) < self._config.max_tokens or int(made[-1]) == self._tokenizer.eos_token_id
        counts = {"answers_cut": int(not ended), "prompt_tokens": length, "answer_tokens": len(made)}
        return answer_of(text, num_passages, counts)

    def _at_each_token(self, tokens: Any, scores: Any, **more: Any) -> Any:
        import torch

        self._check_stop()
        return torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
