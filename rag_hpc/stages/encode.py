"""encode: passages to vectors, in token-budget batches; ranks need no exchange to do the work."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rag_hpc.core.hashing import hash_value
from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Launch, Stage, plain
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.models.device import Device, Precision
from rag_hpc.models.encoders import EncoderConfig, get_encoder
from rag_hpc.models.folder import model_limit
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VECTORS, write_facts, write_vectors

log = logging.getLogger(__name__)

MAX_UNITS = 20_000
TOKENS_PER_UNIT = {Device.auto: 25_000, Device.cpu: 25_000, Device.cuda: 1_000_000}
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 65_536}


@dataclass(kw_only=True)
class EncodeConfig:
    """Settings of the encode stage."""

    model: str = path_field("minilm", only="folder")  # or a folder in sentence-transformers' layout, or a hub id
    prefix: str = ""  # text put before each passage, for encoders that were trained with one
    dims: int = 0  # keep so many of a vector's first dimensions, for encoders trained so (Matryoshka); 0 = all
    device: Device = Device.auto
    precision: Precision = Precision.auto
    tokens_per_batch: int = 0  # in a forward pass; 0 = 4096 on a CPU, 65536 on a GPU
    tokens_per_unit: int = 0  # 0 = 25,000, with device=cuda 1,000,000; more where a run would have over 20,000 units
    threads: int = 1  # per worker; part of the fingerprint, since sums split over threads may differ in the last bit
    # an endpoint in place of the model; in the fingerprint through the units, so that it names local runs as before
    encoder: EncoderConfig = field(default_factory=EncoderConfig, metadata={"output": False})
    allow_mixed: bool = False  # vectors made by processors of several classes, whose last bits differ

    def __post_init__(self) -> None:
        if 0 < self.tokens_per_batch < 512:
            raise ConfigError(
                f"stage.encode.tokens_per_batch={self.tokens_per_batch}: at least 512 (one passage); try 4096"
            )
        if self.threads < 0 or self.tokens_per_unit < 0 or self.dims < 0 or self.tokens_per_batch < 0:
            raise ConfigError("stage.encode: threads, dims, tokens_per_unit and tokens_per_batch are 0 or more")


class Encode(Stage):
    """Runs the encoder over all chunks; row i of unit u is the vector of the unit's i-th ordinal."""

    Config: ClassVar[type] = EncodeConfig
    name = "encode"
    version = 3
    launch = Launch.torchrun
    needs = ("chunk",)
    counts_from = "chunk:chunks"
    identity = (VECTORS,)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return units of consecutive ordinals, of `tokens_per_unit` tokens each. Raises ConfigError where passages
        may be longer than the encoder reads.
        """
        self._check_limit(inputs)
        chunks = ChunkStore(inputs["chunk"])
        ends_N = np.cumsum(chunks.num_tokens())
        if not len(ends_N):
            return []
        if not self.config.encoder.is_remote:
            self._check_language(chunks)
        wanted = self.config.tokens_per_unit or TOKENS_PER_UNIT[self.config.device]
        wanted = max(wanted, -(-int(ends_N[-1]) // MAX_UNITS))
        # a passage belongs to the unit in which its last token lies
        unit_N = (ends_N - 1).clip(0) // wanted
        starts = np.flatnonzero(np.diff(unit_N, prepend=-1)).tolist()
        stops = [*starts[1:], len(ends_N)]
        asked = {"encoder": plain(self.config.encoder)} if self.config.encoder.is_remote else {}
        return [Unit(i, {"start": a, "stop": b, **asked}) for i, (a, b) in enumerate(zip(starts, stops, strict=True))]

    def setup(self, ctx: Context) -> None:
        """Load the model once per rank. Raises ConfigError where the ranks of a job would not give the same bits."""
        config = self.config
        how: dict[str, Any] = {"threads": config.threads, "dims": config.dims, "device": config.device}
        self._encoder = get_encoder(config.encoder, config.model, config.precision, check_stop=ctx.check_stop, **how)
        wanted = self._encoder.recipe.missing_prefix(("document", "passage"), config.prefix)
        if wanted is not None:
            ctx.log.warning(
                "encode: %s was trained with %r before passages; see stage.encode.prefix", config.model, wanted
            )
        self._chunks = ChunkStore(ctx.inputs["chunk"])
        self._agree(ctx)

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write vectors.npy [rows, dimensions] float16, and encoder.json: what made them."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        texts = [self.config.prefix + text for text in self._chunks.indexed_texts(start, stop)]
        budget = self.config.tokens_per_batch or TOKENS_PER_BATCH.get(self._encoder.device_kind, 0)
        retries = self._encoder.num_retries
        vectors_ND = self._encoder.encode(texts, tokens_per_batch=budget, out=np.float16)
        broken = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(broken):
            (chunk,) = self._chunks.rows([start + int(broken[0])], ["chunk_id", "doc_id"])
            raise InputError(
                f"encode: the vector of chunk {chunk['chunk_id']} (document {chunk['doc_id']}) is not finite, and "
                f"{len(broken) - 1} more of this unit; try stage.encode.precision=float32, or get the model again"
            )
        write_vectors(out, vectors_ND)
        write_facts(out, self._facts)
        halved = self._encoder.num_retries - retries  # for the record; a manifest says nothing of the machine
        return Counts(
            items_in=len(texts), items_out=len(vectors_ND), timings={"batches_halved": float(halved)} if halved else {}
        )

    def _agree(self, ctx: Context) -> None:
        """Take down what makes the vectors, which the ranks of a job must have in common."""
        self._facts = self._encoder.facts()
        ctx.log.info("encode: %s", ", ".join(f"{name} {fact}" for name, fact in self._facts.items()))
        mine = np.array([int(hash_value(self._facts)[:15], 16)], dtype=np.int64)
        if not np.array_equal(ctx.comm.broadcast(mine), mine) and not self.config.allow_mixed:
            raise ConfigError(
                f"encode: this rank would encode with {self._facts}, rank 0 does otherwise; use nodes of one kind "
                "(cluster.constraint), or set stage.encode.allow_mixed=true"
            )

    def _check_language(self, chunks: ChunkStore) -> None:
        """Warn where the encoder has no tokens for what the corpus is written in: vectors of such text mean nothing."""
        from rag_hpc.models.tokens import TokenCounter
        from rag_hpc.search.trial import SOME_UNKNOWN, unknown_of

        unknown = unknown_of(chunks, TokenCounter(self.config.model).unknown_share)
        if unknown >= SOME_UNKNOWN:
            log.warning(
                "encode: %s has no tokens for %.0f%% of the letters of the corpus (a sample of its passages): their "
                "vectors tell little, and BM25 ranks alone or nearly so; set stage.encode.model to an encoder of the "
                "corpus's languages",
                self.config.model,
                100 * unknown,
            )

    def _check_limit(self, inputs: Inputs) -> None:
        """What the chunk stage could not see: a prefix, or another model than the one that its chunks were cut for."""
        cut = inputs["chunk"].config
        if self.config.encoder.is_remote:
            return
        if not self.config.prefix and cut.get("model", self.config.model) == self.config.model:
            return
        from rag_hpc.models.tokens import TokenCounter

        counter, limit = TokenCounter(self.config.model), model_limit(self.config.model)
        extra = counter.num_special + counter.num_tokens(self.config.prefix)
        if int(cut["max_tokens"]) + extra > limit:
            raise ConfigError(
                f"encode: chunks have up to {cut['max_tokens']} tokens; with {extra} of stage.encode.prefix and "
                f"special ones they exceed the {limit} that {self.config.model} reads; set "
                f"stage.chunk.max_tokens={limit - extra}"
            )
