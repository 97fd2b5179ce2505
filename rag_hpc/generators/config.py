"""Which generator answers, and how it is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rag_hpc.core.settings import path_field
from rag_hpc.errors import ConfigError


class GeneratorName(enum.Enum):
    """Known generators."""

    extractive = "extractive"
    openai = "openai"


@dataclass(kw_only=True)
class GeneratorConfig:
    """Settings of the generator; `extractive` reads min_score, `openai` all others."""

    name: GeneratorName = GeneratorName.extractive
    min_score: float = 0.5  # 0 to 1, how likely the best sentence must answer; calibrated for the encoder minilm
    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""
    api_key_env: str = ""  # name of the variable that holds the key
    api_key_file: str = path_field("")  # a file that only its owner can read
    max_tokens: int = 256
    timeout_s: float = field(default=60.0, metadata={"output": False})

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"generator.min_score={self.min_score}: between 0 (always answer) and 1; try 0.5")
        if self.name is GeneratorName.openai and not (self.base_url and self.model):
            raise ConfigError(
                "generator=openai: set generator.base_url (e.g. http://127.0.0.1:8000/v1) and generator.model"
            )
        if {"@", "?"} & set(self.base_url):
            raise ConfigError(
                "generator.base_url: an address with a name, a password or a query would be written into the run's "
                "files; give the bare address, and the key as generator.api_key_env or generator.api_key_file"
            )
