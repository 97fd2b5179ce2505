"""Which encoder makes the vectors of passages and queries: one in this process, or one behind an endpoint."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.settings import DAY_S, bounded, check_address, check_bounds, path_field
from rag_hpc.errors import ConfigError
from rag_hpc.models.device import Device, Precision
from rag_hpc.models.recipe import Recipe


class EncoderName(enum.Enum):
    """Known encoders."""

    local = "local"
    openai = "openai"


@dataclass(kw_only=True)
class EncoderConfig:
    """Settings of the encoder. `local` reads none of the others: its model is stage.encode.model."""

    name: EncoderName = EncoderName.local
    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""  # its name there
    api_key_env: str = ""  # name of the variable that holds the key
    api_key_file: str = path_field("")  # a file that only its owner can read
    batch: int = bounded(64, 1, 2048, output=False)  # texts a request
    concurrency: int = bounded(4, 1, 256, output=False)  # requests at a time, of a worker
    timeout_s: float = bounded(60.0, 0.001, DAY_S, output=False)

    def __post_init__(self) -> None:
        check_bounds(self, "encoder")
        check_address(self.base_url, "encoder")
        if self.name is EncoderName.openai and not (self.base_url and self.model):
            raise ConfigError("encoder=openai: set encoder.base_url (e.g. http://127.0.0.1:8000/v1) and encoder.model")

    @property
    def is_remote(self) -> bool:
        """Whether texts leave this process."""
        return self.name is not EncoderName.local


class TextEncoder(Protocol):
    """What stages ask of an encoder."""

    @property
    def dims(self) -> int:
        """The vectors' dimensions."""

    @property
    def recipe(self) -> Recipe:
        """What the model's folder asks for."""

    @property
    def num_retries(self) -> int:
        """How often a batch did not fit a GPU's memory and was halved."""

    @property
    def device_kind(self) -> str:
        """cpu, cuda or endpoint."""

    def facts(self) -> dict[str, Any]:
        """Return what the vectors depend on besides the texts: two runs with equal facts can be searched together."""

    def encode(
        self,
        texts: Sequence[str],
        tokens_per_batch: int = 8192,
        *,
        out: type = np.float32,
        allow_truncate: bool = False,
    ) -> Array:
        """Return vectors_ND of dtype `out`, in the order of the texts."""


def get_encoder(
    config: EncoderConfig,
    model: str,
    precision: Precision = Precision.float32,
    *,
    threads: int = 1,
    dims: int = 0,
    device: Device = Device.cpu,
    check_stop: Callable[[], None] = lambda: None,
) -> TextEncoder:
    """Return the encoder that the configuration names; all but dims and check_stop are of the local one."""
    if config.is_remote:
        from rag_hpc.models.remote import RemoteEncoder

        return RemoteEncoder(config, dims=dims, check_stop=check_stop)
    from rag_hpc.models.encoder import Encoder

    return Encoder(model, precision, threads=threads, dims=dims, device=device)
