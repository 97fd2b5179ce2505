"""Known generators by name. Each loads its own dependencies when it is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Encode, Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.folder import require_model
from rag_hpc.generators.prompt import Packer, PromptConfig


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a generator may use beside its settings."""

    load: Callable[[], Encode]  # gives the encoder, to those that have a use for it
    check_stop: Callable[[], None] = lambda: None  # raises when the generator is to wait no longer
    prompt: PromptConfig = field(default_factory=PromptConfig)
    scratch: Path | None = None  # a node-local folder of this process


Made = tuple[str, Callable[[Any, GeneratorConfig, Given], Generator]]  # a module, and what makes a generator with it
GENERATORS: dict[GeneratorName, Made] = {
    GeneratorName.extractive: (
        "rag_hpc.generators.extractive",
        lambda its, config, given: its.ExtractiveGenerator(given.load(), config.min_score),
    ),
    GeneratorName.openai: (
        "rag_hpc.generators.openai",
        lambda its, config, given: its.OpenAIGenerator(config, given.check_stop, given.prompt),
    ),
    GeneratorName.vllm: (
        "rag_hpc.generators.vllm",
        lambda its, config, given: its.VllmGenerator(config, given.check_stop, given.prompt, given.scratch),
    ),
    GeneratorName.transformers: (
        "rag_hpc.generators.transformers",
        lambda its, config, given: its.TransformersGenerator(config, given.check_stop, given.prompt),
    ),
}


def get_generator(config: GeneratorConfig, given: Given) -> Generator:
    """Return the generator that the configuration names; its module, and what that needs, is imported only now."""
    module, make = GENERATORS[config.name]
    return make(importlib.import_module(module), config, given)


def check_generator(config: GeneratorConfig, prompt: PromptConfig) -> None:
    """Raise, before anything is queued, for a generator whose model, tokenizer or program is not there."""
    if config.name.loads_model:
        require_model(config.model)
    if config.name is not GeneratorName.extractive:
        Packer(prompt, config)
    if config.name is GeneratorName.vllm:
        from rag_hpc.generators.vllm import require_vllm  # which other generators do without

        require_vllm(config)
    if config.vllm.args and config.name is not GeneratorName.vllm:
        raise ConfigError(f"generator.vllm.args is for generator=vllm, not for {config.name.value}; leave it out")
