"""Known generators by name. Each loads its own dependencies when it is made."""

from __future__ import annotations

from collections.abc import Callable

from rag_hpc.generators.base import Encode, Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.generators.openai import OpenAIGenerator

GENERATORS: dict[GeneratorName, Callable[[GeneratorConfig, Callable[[], Encode], Callable[[], None]], Generator]] = {
    GeneratorName.extractive: lambda config, load, check_stop: ExtractiveGenerator(load(), config.min_score),
    GeneratorName.openai: lambda config, load, check_stop: OpenAIGenerator(config, check_stop),
}


def get_generator(
    config: GeneratorConfig, load: Callable[[], Encode], check_stop: Callable[[], None] = lambda: None
) -> Generator:
    """Return the generator that the configuration names; `load` gives the encoder, to those that have a use for it.

    `check_stop` raises when the generator is to wait no longer.
    """
    return GENERATORS[config.name](config, load, check_stop)
