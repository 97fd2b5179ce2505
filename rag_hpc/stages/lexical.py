"""lexical: Lucene shards over consecutive chunks; each is one packed file, so a shard costs one inode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rag_hpc.core.chunkstore import ChunkStore, split_evenly
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.errors import ConfigError

INDEX = "index.tar"


@dataclass(kw_only=True)
class LexicalConfig:
    """Settings of the Lucene shards (English analyser, Porter stemmer, as Anserini's default)."""

    num_shards: int = 4
    heap_mib: int = field(default=1024, metadata={"output": False})  # of the Java virtual machine

    def __post_init__(self) -> None:
        if self.num_shards < 1 or self.heap_mib < 64:
            raise ConfigError("stage.lexical: num_shards >= 1 and heap_mib >= 64 are needed")


class Lexical(Stage):
    """Builds one Lucene shard a unit; Lucene's document i is the chunk with ordinal start + i."""

    Config: ClassVar[type] = LexicalConfig
    name = "lexical"
    version = 1
    needs = ("chunk",)
    identity = ()  # the layout of shards is a choice; what they answer is compared at retrieve

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per shard."""
        ranges = split_evenly(len(ChunkStore(inputs["chunk"])), self.config.num_shards)
        return [Unit(i, {"start": start, "stop": stop}) for i, (start, stop) in enumerate(ranges)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write index.tar, built on node-local scratch: Lucene's small writes never reach the shared filesystem."""
        from rag_hpc import lucene

        start, stop = unit.inputs["start"], unit.inputs["stop"]
        texts = ChunkStore(ctx.inputs["chunk"]).indexed_texts(start, stop)
        folder = ctx.scratch / f"lucene-{unit.index}"
        documents = ((str(ordinal), text) for ordinal, text in enumerate(texts, start=start))
        stats = lucene.build_index(documents, folder, heap_mib=self.config.heap_mib)
        lucene.pack(folder, out / INDEX)
        return Counts(items_in=stop - start, items_out=stats["docs"], extra={"terms": stats["terms"]})
