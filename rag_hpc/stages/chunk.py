"""chunk: from documents to passages that fit the encoder, with offsets into the document's text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.chunking import chunk_ids, chunk_spans
from rag_hpc.core.chunkstore import CHUNKS, COLUMNS
from rag_hpc.core.stage import Context, Counts, Inputs, Stage, Unit
from rag_hpc.core.tables import Rejects, TableWriter, read_table
from rag_hpc.encoder import model_limit, tokenizer_file
from rag_hpc.errors import ConfigError

SPECIAL_TOKENS = 2  # [CLS] and [SEP] share the encoder's window with the text


@dataclass(kw_only=True)
class ChunkConfig:
    """Settings of the chunk stage."""

    model: str = "minilm"  # whose tokenizer counts, and whose limit holds
    max_tokens: int = 254  # of a passage with its heading; the encoder adds two
    overlap_tokens: int = 25
    heading_tokens: int = 24  # of the document's title, indexed before each of its passages; 0 = none

    def __post_init__(self) -> None:
        if self.max_tokens < 16:
            raise ConfigError(f"stage.chunk.max_tokens={self.max_tokens}: at least 16; try 254")
        if not 0 <= self.heading_tokens <= self.max_tokens // 2:
            raise ConfigError(f"stage.chunk.heading_tokens={self.heading_tokens}: between 0 and half of max_tokens")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise ConfigError(f"stage.chunk.overlap_tokens={self.overlap_tokens}: between 0 and half of max_tokens")


def check_limit(config: ChunkConfig) -> None:
    """Raise ConfigError when passages could be longer than the encoder reads: it would cut them in silence."""
    limit = model_limit(config.model)
    if config.max_tokens + SPECIAL_TOKENS > limit:
        raise ConfigError(
            f"stage.chunk.max_tokens={config.max_tokens} and {SPECIAL_TOKENS} special tokens exceed the {limit} "
            f"tokens that {config.model} reads; set stage.chunk.max_tokens={limit - SPECIAL_TOKENS} or another "
            "stage.encode.model"
        )


class Chunk(Stage):
    """Cuts documents into overlapping passages at sentence ends."""

    Config: ClassVar[type] = ChunkConfig
    name = "chunk"
    version = 1
    needs = ("dedup.drop",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per document unit."""
        check_limit(self.config)
        return [Unit(i, {"unit": unit["index"]}) for i, unit in enumerate(inputs["dedup.drop"].units)]

    def setup(self, ctx: Context) -> None:
        """Load the encoder's own tokenizer."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_file(self.config.model)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write chunks.parquet; its counts are of documents, the number of chunks is `extra.chunks`."""
        counts, rejects = Counts(), Rejects()
        path = ctx.inputs["dedup.drop"].unit_dir(unit.inputs["unit"]) / "documents.parquet"
        with TableWriter(out / CHUNKS, COLUMNS) as chunks:
            for batch in read_table(path).to_batches(max_chunksize=64):
                for document in batch.to_pylist():
                    ctx.check_stop()
                    counts.items_in += 1
                    if self._cut(document, chunks):
                        counts.items_out += 1
                    else:
                        rejects.add(document["doc_id"], "no-tokens", "the tokenizer finds nothing to encode")
        counts.dropped = rejects.write(out)
        counts.extra = {"chunks": chunks.num_rows}
        return counts

    def _cut(self, document: dict[str, Any], chunks: TableWriter) -> int:
        text, title = document["text"], document["title"]
        heading, room = ("", self.config.max_tokens) if text.startswith(title) else self._heading(title)
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        overlap = min(self.config.overlap_tokens, room // 2)
        spans = chunk_spans(text, offsets, max_tokens=room, overlap_tokens=overlap)
        for chunk_id, span in zip(chunk_ids(document["doc_id"], spans), spans, strict=True):
            chunks.add(chunk_id, document["doc_id"], document["url"], title, heading, text[span.start : span.end],
                       span.start, span.end, span.num_tokens)
        return len(spans)

    def _heading(self, title: str) -> tuple[str, int]:
        """Return the part of the title that is indexed before each passage, and the tokens left for the passage."""
        line = " ".join(title.split())
        offsets = self._tokenizer.encode(line, add_special_tokens=False).offsets[: self.config.heading_tokens]
        if not offsets:
            return "", self.config.max_tokens
        return line[: offsets[-1][1]], self.config.max_tokens - len(offsets)
