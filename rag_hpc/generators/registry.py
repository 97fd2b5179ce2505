"""Known generators by name. Each loads its own dependencies when it is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rag_hpc.errors import ConfigError
from rag_hpc.generators.base import Encode, Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.generators.folder import require_model
from rag_hpc.generators.openai import OpenAIGenerator
from rag_hpc.generators.transformers import TransformersGenerator
from rag_hpc.generators.vllm import VllmGenerator, require_vllm

Make = Callable[[GeneratorConfig, Callable[[], Encode], Callable[[], None], Path | None], Generator]
GENERATORS: dict[GeneratorName, Make] = {
    GeneratorName.extractive: lambda config, load, stop, scratch: ExtractiveGenerator(load(), config.min_score),
    GeneratorName.openai: lambda config, load, stop, scratch: OpenAIGenerator(config, stop),
    GeneratorName.vllm: lambda config, load, stop, scratch: VllmGenerator(config, stop, scratch),
    GeneratorName.transformers: lambda config, load, stop, scratch: TransformersGenerator(config, stop),
}


def get_generator(
    config: GeneratorConfig,
    load: Callable[[], Encode],
    check_stop: Callable[[], None] = lambda: None,
    scratch: Path | None = None,
) -> Generator:
    """Return the generator that the configuration names; `load` gives the encoder, to those that have a use for it.

    `check_stop` raises when the generator is to wait no longer; `scratch` is a node-local folder of this process.
    """
    return GENERATORS[config.name](config, load, check_stop, scratch)


def check_generator(config: GeneratorConfig) -> None:
    """Raise, before anything is queued, for a generator whose model or program is not there."""
    if config.name.loads_model:
        require_model(config.model)
    if config.name is GeneratorName.vllm:
        require_vllm(config)
    if config.vllm.args and config.name is not GeneratorName.vllm:
        raise ConfigError(f"generator.vllm.args is for generator=vllm, not for {config.name.value}; leave it out")
