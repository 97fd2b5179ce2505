"""encode: passages to vectors, in token-budget batches; ranks need no exchange to do the work."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.core.stage import Context, Counts, Inputs, Launch, Stage, Unit
from rag_hpc.errors import ConfigError

VECTORS = "vectors.npy"


class Precision(enum.Enum):
    """The arithmetic of the forward pass."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True)
class EncodeConfig:
    """Settings of the encode stage."""

    model: str = "minilm"  # "minilm", a local folder in sentence-transformers' layout, or a hub id
    tokens_per_batch: int = 2048  # real tokens in a forward pass
    precision: Precision = Precision.float32
    threads: int = 1  # per worker; part of the fingerprint, since sums split over threads may differ in the last bit
    rows_per_unit: int = 256

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 512:
            raise ConfigError(f"stage.encode.tokens_per_batch={self.tokens_per_batch}: at least 512 (one passage); "
                              "try 2048")
        if self.threads < 1 or self.rows_per_unit < 1:
            raise ConfigError("stage.encode: threads >= 1 and rows_per_unit >= 1 are needed")


class Encode(Stage):
    """Runs the encoder over all chunks; row i of unit u is the vector of the unit's i-th ordinal."""

    Config: ClassVar[type] = EncodeConfig
    name = "encode"
    version = 1
    launch = Launch.torchrun
    needs = ("chunk",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return units of `rows_per_unit` consecutive ordinals."""
        num_rows = len(ChunkStore(inputs["chunk"]))
        starts = range(0, num_rows, self.config.rows_per_unit)
        stops = [min(start + self.config.rows_per_unit, num_rows) for start in starts]
        return [Unit(i, {"start": a, "stop": b}) for i, (a, b) in enumerate(zip(starts, stops, strict=True))]

    def setup(self, ctx: Context) -> None:
        """Load the model once per rank."""
        from rag_hpc.encoder import Encoder

        self._encoder = Encoder(self.config.model, dtype=self.config.precision.value, threads=self.config.threads)
        self._chunks = ChunkStore(ctx.inputs["chunk"])

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write vectors.npy [rows, dimensions] float16."""
        texts = self._chunks.indexed_texts(unit.inputs["start"], unit.inputs["stop"])
        vectors_ND = self._encoder.encode(texts, tokens_per_batch=self.config.tokens_per_batch)
        np.save(out / VECTORS, vectors_ND.astype(np.float16), allow_pickle=False)
        return Counts(items_in=len(texts), items_out=len(vectors_ND))
