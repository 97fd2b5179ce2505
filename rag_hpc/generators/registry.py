"""Known generators by name. Each loads its own dependencies when it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Encode, Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.generators.folder import require_model
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.prompt import Packer, PromptConfig
from rag_hpc.generators.transformers import TransformersGenerator
from rag_hpc.generators.vllm import VllmGenerator, require_vllm


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a generator may use beside its settings."""

    load: Callable[[], Encode]  # gives the encoder, to those that have a use for it
    check_stop: Callable[[], None] = lambda: None  # raises when the generator is to wait no longer
    prompt: PromptConfig = field(default_factory=PromptConfig)
    scratch: Path | None = None  # a node-local folder of this process


GENERATORS: dict[GeneratorName, Callable[[GeneratorConfig, Given], Generator]] = {
    GeneratorName.extractive: lambda config, given: ExtractiveGenerator(given.load(), config.min_score),
    GeneratorName.openai: lambda config, given: OpenAIGenerator(config, given.check_stop, given.prompt),
    GeneratorName.vllm: lambda config, given: VllmGenerator(config, given.check_stop, given.prompt, given.scratch),
    GeneratorName.transformers: lambda config, given: TransformersGenerator(config, given.check_stop, given.prompt),
}


def get_generator(config: GeneratorConfig, given: Given) -> Generator:
    """Return the generator that the configuration names."""
    return GENERATORS[config.name](config, given)


def check_generator(config: GeneratorConfig, prompt: PromptConfig) -> None:
    """Raise, before anything is queued, for a generator whose model, tokenizer or program is not there."""
    if config.name.loads_model:
        require_model(config.model)
    if config.name is not GeneratorName.extractive:
        Packer(prompt, config)
    if config.name is GeneratorName.vllm:
        require_vllm(config)
    if config.vllm.args and config.name is not GeneratorName.vllm:
        raise ConfigError(f"generator.vllm.args is for generator=vllm, not for {config.name.value}; leave it out")
