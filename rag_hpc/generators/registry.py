"""Known generators by name. Each loads its own dependencies when it is made."""

from __future__ import annotations

from collections.abc import Callable

from rag_hpc.generators.base import Generator
from rag_hpc.generators.config import GeneratorConfig, GeneratorName
from rag_hpc.generators.extractive import ExtractiveGenerator
from rag_hpc.generators.openai import OpenAIGenerator

GENERATORS: dict[GeneratorName, Callable[[GeneratorConfig], Generator]] = {
    GeneratorName.extractive: lambda config: ExtractiveGenerator(),
    GeneratorName.openai: OpenAIGenerator,
}


def get_generator(config: GeneratorConfig) -> Generator:
    """Return the generator that the configuration names."""
    return GENERATORS[config.name](config)
