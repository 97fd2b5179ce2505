"""Which generator answers, and how it is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rag_hpc.errors import ConfigError


class GeneratorName(enum.Enum):
    """Known generators."""

    extractive = "extractive"
    openai = "openai"


@dataclass(kw_only=True)
class GeneratorConfig:
    """Settings of the generator; those of `openai` are ignored by `extractive`."""

    name: GeneratorName = GeneratorName.extractive
    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""
    api_key_env: str = ""  # name of the variable that holds the key
    api_key_file: str = ""  # a file that only its owner can read
    max_tokens: int = 256
    timeout_s: float = field(default=60.0, metadata={"output": False})

    def __post_init__(self) -> None:
        if self.name is GeneratorName.openai and not (self.base_url and self.model):
            raise ConfigError(
                "generator=openai: set generator.base_url (e.g. http://127.0.0.1:8000/v1) and generator.model"
            )
