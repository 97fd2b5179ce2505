"""chunk: from documents to passages that fit the encoder, with offsets into the document's text."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rag_hpc.algo.chunk.semantic import topic_starts, windows
from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError
from rag_hpc.models.folder import model_limit
from rag_hpc.stores import chunks
from rag_hpc.stores.documents import COLUMNS, DOCUMENTS, document_batches
from rag_hpc.stores.fields import FieldKind, check_fields, values_of
from rag_hpc.stores.tables import Rejects

if TYPE_CHECKING:  # what numba compiles is imported by those who cut: every command imports the config here
    from rag_hpc.algo.chunk.chunking import Span
    from rag_hpc.algo.chunk.structure import Breaks, Heading
    from rag_hpc.models.encoder import Encoder
    from rag_hpc.models.tokens import TokenCounter

JOINT = " > "  # between the parts of a heading
_MARKUP = 8  # characters that may stand before a title in Markdown


class Method(enum.Enum):
    """Where documents are cut: by their structure alone, or where the topic changes too."""

    recursive = "recursive"
    semantic = "semantic"


@dataclass(kw_only=True)
class ChunkConfig:
    """Settings of the chunk stage."""

    method: Method = Method.recursive
    model: str = path_field("minilm", only="folder")  # its tokenizer counts, its limit holds, its vectors tell topics
    max_tokens: int = 254  # of a passage with its heading; the encoder adds two
    overlap_tokens: int = 25
    heading_tokens: int = 24  # of the title and headings above a passage, which are indexed before it; 0 = none
    semantic_window: int = 3  # sentences on each side that are compared
    semantic_percentile: float = 80.0  # of the gaps between sentences by depth: those above may begin a topic
    fields: dict[str, FieldKind] = field(
        default_factory=dict
    )  # of documents' metadata that filters read, as {tenant: string, year: number, date: date}

    def __post_init__(self) -> None:
        check_fields(self.fields, chunks.COLUMNS)
        if self.max_tokens < 16:
            raise ConfigError(f"stage.chunk.max_tokens={self.max_tokens}: at least 16; try 254")
        if not 0 <= self.heading_tokens <= self.max_tokens // 2:
            raise ConfigError(f"stage.chunk.heading_tokens={self.heading_tokens}: between 0 and half of max_tokens")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise ConfigError(f"stage.chunk.overlap_tokens={self.overlap_tokens}: between 0 and half of max_tokens")
        if self.semantic_window < 1 or not 0 <= self.semantic_percentile <= 100:
            raise ConfigError(
                "stage.chunk: semantic_window >= 1 and semantic_percentile from 0 to 100 are needed; try 3 and 80"
            )


def check_limit(config: ChunkConfig) -> None:
    """Raise ConfigError when passages could be longer than the encoder reads: it would cut them in silence."""
    from rag_hpc.models.tokens import TokenCounter

    limit, special = model_limit(config.model), TokenCounter(config.model).num_special
    if config.max_tokens + special > limit:
        raise ConfigError(
            f"stage.chunk.max_tokens={config.max_tokens} and {special} special tokens exceed the {limit} "
            f"tokens that {config.model} reads; set stage.chunk.max_tokens={limit - special} or another "
            "stage.encode.model"
        )


class Chunk(Stage):
    """Cuts documents into overlapping passages where their structure, or their topic, makes a break."""

    Config: ClassVar[type] = ChunkConfig
    name = "chunk"
    version = 4
    needs = ("dedup.drop",)

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per document unit."""
        check_limit(self.config)
        return [Unit(i, {"unit": unit["index"]}) for i, unit in enumerate(inputs["dedup.drop"].units)]

    def setup(self, ctx: Context) -> None:
        """Load the encoder's own tokenizer, and the encoder where topics are asked for; compile what cuts."""
        self._chunker = Chunker(self.config)
        words = "# Some words\n\n" + "A sentence of some words. " * 2 * self.config.max_tokens
        self._chunker.rows({"doc_id": "", "url": "", "title": "", "text": words, "lang": "", "meta": "{}"})

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write chunks.parquet; its counts are of documents, the number of chunks is `extra.chunks`."""
        counts, rejects = Counts(), Rejects()
        path = ctx.inputs["dedup.drop"].file(unit.inputs["unit"], DOCUMENTS)
        missing = dict.fromkeys(self.config.fields, 0)
        with chunks.open_chunks(out, self.config.fields) as table:
            for batch in document_batches(path, COLUMNS, 64):
                for document in batch.to_pylist():
                    ctx.check_stop()
                    counts.items_in += 1
                    rows = self._chunker.rows(document)
                    for name, value in zip(missing, rows[0][len(chunks.COLUMNS) :] if rows else (), strict=False):
                        missing[name] += value is None
                    for row in rows:
                        table.add(*row)
                    if rows:
                        counts.items_out += 1
                    else:
                        rejects.add(document["doc_id"], "no-tokens", "the tokenizer finds nothing to encode")
        counts.dropped = rejects.write(out)
        counts.extra = {"chunks": table.num_rows, **{f"without_{name}": missing[name] for name in missing}}
        return counts


class Chunker:
    """Cuts documents with one configuration."""

    def __init__(self, config: ChunkConfig) -> None:
        from rag_hpc.models.tokens import TokenCounter

        self._config = config
        self._counter = TokenCounter(config.model)
        self._encoder: Encoder | None = None
        if config.method is Method.semantic:
            from rag_hpc.models.encoder import Encoder

            self._encoder = Encoder(config.model, threads=1)

    def rows(self, document: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return a document's chunks as rows of COLUMNS and the fields, none when it has no tokens."""
        from rag_hpc.algo.chunk.chunking import chunk_ids

        text, doc_id = document["text"], document["doc_id"]
        headed = _Headed(document, self._counter, self._config)
        spans = self._spans(text, headed)
        same = (doc_id, document["url"], document["title"], document["lang"])
        carried = values_of(document["meta"], self._config.fields)
        return [
            (
                chunk_id,
                *same,
                headed.heading(span.start),
                text[span.start : span.end],
                span.start,
                span.end,
                span.num_tokens,
                *carried,
            )
            for chunk_id, span in zip(chunk_ids(doc_id, spans), spans, strict=True)
        ]

    def _spans(self, text: str, headed: _Headed) -> list[Span]:
        from rag_hpc.algo.chunk.chunking import MOST_LETTERS, chunk_spans
        from rag_hpc.algo.chunk.structure import NO_BREAKS, find_breaks

        tokens = self._counter.tokens(text)
        room = self._config.max_tokens - self._config.heading_tokens
        is_short = len(tokens.starts_T) <= room and len(text) <= MOST_LETTERS * room
        breaks = NO_BREAKS if is_short else find_breaks(text, headed.headings)
        if self._encoder is not None and not is_short:
            breaks += self._topics(text, self._encoder)
        return chunk_spans(text, tokens, breaks, headed, overlap_tokens=self._config.overlap_tokens)

    def _topics(self, text: str, encoder: Encoder) -> Breaks:
        """Return where topics begin. The encoder's batches hold this document only, so that no other moves a bit."""
        from rag_hpc.algo.chunk.structure import TOPIC, Breaks
        from rag_hpc.algo.text.sentences import sentence_spans

        spans, size = sentence_spans(text), self._config.semantic_window
        vectors_WD = encoder.encode(windows(text, spans, size), tokens_per_batch=2048, allow_truncate=True)
        at = topic_starts(vectors_WD, size, self._config.semantic_percentile)
        places_B = np.array([spans[i][0] for i in at], dtype=np.int64)
        return Breaks(places_B=places_B, ranks_B=np.full(len(at), TOPIC, dtype=np.int8))


class _Headed:
    """A document's headings as passages carry them, and the tokens that are left for the passages."""

    def __init__(self, document: dict[str, Any], counter: TokenCounter, config: ChunkConfig) -> None:
        from rag_hpc.algo.chunk.structure import Outline

        self._text, self._counter, self._config = document["text"], counter, config
        self._title = " ".join(document["title"].split())
        self.headings = _headings(document)
        self._outline = Outline(self._title, self.headings)
        self._by_path: dict[tuple[str, ...], tuple[str, int]] = {}
        self._by_start: dict[int, tuple[str, int]] = {}

    def heading(self, start: int) -> str:
        """Return what is indexed before a passage that starts here."""
        return self._at(start)[0]

    def room(self, start: int) -> int:
        """Return the tokens that a passage may have which starts here."""
        return self._config.max_tokens - self._at(start)[1]

    def num_tokens(self, start: int, end: int) -> int:
        """Return the tokens that the slice adds to its heading."""
        heading, taken = self._at(start)
        joint = self._counter.num_tokens(f"{heading}\n{self._text[start:end]}" if heading else self._text[start:end])
        return joint - taken

    def _at(self, start: int) -> tuple[str, int]:
        if start not in self._by_start:
            path = self._outline.path(start)
            if path and path[0] == self._title and self._begins_with_title(start):
                path = path[1:]
            if path not in self._by_path:
                self._by_path[path] = self._cut(path)
            self._by_start[start] = self._by_path[path]
        return self._by_start[start]

    def _begins_with_title(self, start: int) -> bool:
        return bool(self._text[start : start + len(self._title) + _MARKUP].lstrip("# ").startswith(self._title))

    def _cut(self, path: tuple[str, ...]) -> tuple[str, int]:
        """Return the path as a line of at most heading_tokens, and its tokens; the parts in the middle go first."""
        most = self._config.heading_tokens
        if not path or not most:
            return "", 0
        starts_T, line = self._starts(path)
        if len(starts_T) > most and len(path) > 2:
            starts_T, line = self._starts((path[0], path[-1]))
        if len(starts_T) <= most:
            return (line, len(starts_T)) if len(starts_T) else ("", 0)
        line = line[: starts_T[most]].rstrip(JOINT)
        num = self._counter.num_tokens(line)
        return (line, num) if num <= most else ("", 0)

    def _starts(self, path: tuple[str, ...]) -> tuple[Any, str]:
        line = JOINT.join(path)
        return self._counter.tokens(line).starts_T, line


def _headings(document: dict[str, Any]) -> list[Heading]:
    """Return the headings that the clean stage found; none where its metadata cannot be read."""
    from rag_hpc.algo.chunk.structure import given_headings

    try:
        meta = json.loads(document["meta"] or "{}")
    except (ValueError, RecursionError):
        return []
    return given_headings(meta.get("headings"), document["text"]) if isinstance(meta, dict) else []
