"""lexical: Lucene shards over consecutive chunks; each is one packed file, so a shard costs one inode."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rag_hpc.core.settings import path_field
from rag_hpc.core.stage import Context, Inputs, Stage
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.models.folder import model_folder, weights_hash
from rag_hpc.search import impacts, languages, prebuilt
from rag_hpc.search.jvm import IMPACTS, Analyzer
from rag_hpc.stores import partitions
from rag_hpc.stores.chunks import ChunkStore, split_evenly
from rag_hpc.stores.documents import DOCUMENTS, document_batches
from rag_hpc.stores.shards import LEXICAL, SPANS
from rag_hpc.stores.tables import read_column

if TYPE_CHECKING:
    from rag_hpc.search import lucene

TEXTS = ("doc_id", "title", "text", "lang")


class Extra(enum.Enum):
    """What a passage or a document has beside its text."""

    title = "title"
    heading = "heading"


class Kind(enum.Enum):
    """What a document is scored by: its words, or what a masked language model finds in it."""

    bm25 = "bm25"
    impact = "impact"


@dataclass(kw_only=True)
class LexicalConfig:
    """Settings of the Lucene shards."""

    kind: Kind = Kind.bm25
    model: str = path_field("", only="folder")  # of impacts: a masked language model, such as SPLADE's
    num_shards: int = 4
    partition_by: str = (
        ""  # a field of passages: a shard has those of one value, and a filter's search leaves others out
    )
    analyzer: Analyzer = Analyzer.auto  # a language, of passages and questions; auto = of each its own
    whole_documents: bool = False  # are scored, and named by their best passages; else passages are
    fields: list[Extra] = field(
        default_factory=list
    )  # of their own, beside contents; stage.retrieve.fields weighs them
    positions: bool = False  # of words: "quoted words" of a question are then a phrase
    term_vectors: bool = False  # what a document's words are, for stage.retrieve.rm3
    prebuilt: str = path_field("", only="folder")  # of Lucene, made by Pyserini say; ids: chunk_id, or doc_id of whole
    heap_mib: int = field(default=0, metadata={"output": False})  # of Java's; 0 = a quarter of the memory

    def __post_init__(self) -> None:
        if self.num_shards < 1 or 0 != self.heap_mib < 64:
            raise ConfigError("stage.lexical: num_shards >= 1 and heap_mib >= 64 (or 0, by the memory) are needed")
        if len(set(self.fields)) < len(self.fields):
            raise ConfigError("stage.lexical.fields: a field stands there twice; try [title,heading]")
        if self.whole_documents and Extra.heading in self.fields:
            raise ConfigError(
                "stage.lexical.fields=[heading]: headings are of passages, and whole_documents=true indexes documents; "
                "try fields=[title], or whole_documents=false"
            )
        if self.partition_by and (self.whole_documents or self.prebuilt):
            raise ConfigError(
                "stage.lexical.partition_by: shards of passages are made by it; leave whole_documents and prebuilt away"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        if (self.kind is Kind.impact) != bool(self.model):
            raise ConfigError("stage.lexical: kind=impact and model=FOLDER, a masked language model, need each other")
        usual: dict[str, Any] = {"analyzer": Analyzer.auto, "fields": [], "partition_by": "", "prebuilt": ""}
        usual |= dict.fromkeys(("positions", "term_vectors", "whole_documents"), False)
        given = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.kind is Kind.impact and given:
            raise ConfigError(
                f"stage.lexical.kind=impact: {', '.join(given)} does not go with it; leave that "
                "away (whole_documents=false where corpus.keep_all sets it)"
            )


class Lexical(Stage):
    """Builds one Lucene shard a unit; Lucene's document i is the chunk with ordinal start + i, or a whole document."""

    Config: ClassVar[type] = LexicalConfig
    name = "lexical"
    version = 1
    needs: tuple[str, ...] = ("chunk",)
    counts_from = "chunk:chunks"
    identity = ()  # the layout of shards is a choice; what they answer is compared at retrieve

    def __init__(self, config: LexicalConfig) -> None:
        super().__init__(config)
        if config.whole_documents:
            self.needs = ("chunk", "dedup.drop")

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return one unit per shard; an index made elsewhere is one, which carries its hash."""
        if self.config.prebuilt:
            held = prebuilt.digest(self.config.prebuilt)
            return [Unit(0, {"start": 0, "stop": len(ChunkStore(inputs["chunk"])), "prebuilt": held})]
        chunks, num_shards = ChunkStore(inputs["chunk"]), self.config.num_shards
        told = {"model": weights_hash(model_folder(self.config.model))} if self.config.kind is Kind.impact else {}
        if self.config.partition_by:
            parts = partitions.partitions(chunks, self.config.partition_by, num_shards)
        else:
            parts = [{"start": start, "stop": stop} for start, stop in split_evenly(len(chunks), num_shards)]
        return [Unit(i, {**part, **told}) for i, part in enumerate(parts)]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write index.tar, built on node-local scratch: Lucene's small writes never reach the shared filesystem."""
        from rag_hpc.search import lucene

        if self.config.prebuilt:
            return self._take_in(unit, out, ctx)
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        folder = ctx.scratch / f"lucene-{unit.index}"
        if self.config.kind is Kind.impact:
            return self._impacts(unit, out, ctx)
        by_language = self.config.analyzer is Analyzer.auto
        fields = [extra.value for extra in self.config.fields] + ["lang"] * by_language
        documents, found = self._documents(unit, out, ctx, fields), Counter[str]()
        if by_language:
            documents = in_languages(documents, found)
        stats = lucene.build_index(documents, folder, self._how(), heap_mib=self.config.heap_mib)
        lucene.pack(folder, out / LEXICAL)
        extra = {"terms": stats["terms"], **languages.counts(found)}
        return Counts(items_in=stop - start, items_out=stop - start, extra=extra)

    def _documents(self, unit: Unit, out: Path, ctx: Context, fields: Sequence[str]) -> Iterator[list[str]]:
        """Return what a shard holds; of one by a field's value, write the passages' ordinals."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        if not self.config.partition_by:
            return (whole_documents if self.config.whole_documents else passages)(ctx.inputs, start, stop, fields)
        firsts = partitions.ordinals_by(ChunkStore(ctx.inputs["chunk"]), self.config.partition_by)[start:stop]
        np.save(out / SPANS, np.stack([firsts, firsts + 1], axis=1))
        return passages_at(ctx.inputs, firsts.tolist(), fields)

    def _impacts(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write index.tar, in which the frequency of a term is its impact, and which model's they are."""
        from rag_hpc.models.sparse import SparseEncoder
        from rag_hpc.search import lucene

        start, stop = unit.inputs["start"], unit.inputs["stop"]
        encoder, folder = SparseEncoder(self.config.model), ctx.scratch / f"lucene-{unit.index}"

        def documents() -> Iterator[list[str]]:
            for ordinal, text in self._documents(unit, out, ctx, ()):
                ctx.check_stop()
                yield [ordinal, impacts.as_text(encoder.impacts(text))]

        stats = lucene.build_index(
            documents(), folder, lucene.Indexing(analyzer=IMPACTS), heap_mib=self.config.heap_mib
        )
        lucene.pack(folder, out / LEXICAL)
        impacts.write_model(out, encoder.weights)
        return Counts(items_in=stop - start, items_out=stop - start, extra={"impacts": stats["terms"]})

    def _how(self) -> lucene.Indexing:
        from rag_hpc.search import lucene

        given = self.config
        fields, analyzer = [extra.value for extra in given.fields], given.analyzer.value
        return lucene.Indexing(
            analyzer=analyzer, fields=fields, positions=given.positions, term_vectors=given.term_vectors
        )

    def _take_in(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write an index made elsewhere as index.tar, and spans.npy [documents, 2], which passages each holds."""
        from rag_hpc.search import lucene

        given, num_passages = Path(self.config.prebuilt).expanduser(), unit.inputs["stop"]
        spans = spans_by_id(ctx.inputs, "doc_id" if self.config.whole_documents else "chunk_id")
        spans_N2 = prebuilt.spans_in(given, spans, self._how(), self.config.heap_mib)
        lucene.pack(given, out / LEXICAL)
        if prebuilt.digest(str(given)) != unit.inputs["prebuilt"]:
            raise InputError(f"stage.lexical.prebuilt={given}: it changed since the plan was made; run again")
        np.save(out / SPANS, spans_N2)
        return Counts(items_in=num_passages, items_out=num_passages)


def in_languages(documents: Iterable[list[str]], found: Counter[str]) -> Iterator[list[str]]:
    """Yield the documents with their analyser in place of the language that is given last; count it in `found`."""
    for doc_id, text, *more, spoken in documents:
        chosen = languages.of_passage(text, spoken)
        found[chosen] += 1
        yield [doc_id, text, *more, chosen]


def spans_by_id(inputs: Inputs, column: str) -> dict[str, tuple[int, int]]:
    """Return the ordinals [first, stop) of each chunk_id, or of each doc_id's passages, which stand together."""
    spans: dict[str, tuple[int, int]] = {}
    for ordinal, name in enumerate(ChunkStore(inputs["chunk"]).column(column)):
        spans[name] = (spans.get(name, (ordinal,))[0], ordinal + 1)
    return spans


def passages(inputs: Inputs, start: int, stop: int, fields: Sequence[str]) -> Iterator[list[str]]:
    """Yield the ordinal, text and fields of the chunks [start, stop). The heading stands before the text unless it is a
    field."""
    store = ChunkStore(inputs["chunk"])
    texts = store.texts(start, stop) if Extra.heading.value in fields else store.indexed_texts(start, stop)
    extras = [store.texts(start, stop, name) for name in fields]
    for ordinal, (text, *more) in enumerate(zip(texts, *extras, strict=True), start=start):
        yield [str(ordinal), text, *more]


def passages_at(inputs: Inputs, ordinals: Sequence[int], fields: Sequence[str]) -> Iterator[list[str]]:
    """Yield what `passages` does of these ordinals."""
    store = ChunkStore(inputs["chunk"])
    columns, is_field = dict.fromkeys(["heading", "text", *fields]), Extra.heading.value in fields
    for ordinal in ordinals:
        (row,) = store.rows([ordinal], [*columns])
        text = row["text"] if is_field or not row["heading"] else f"{row['heading']}\n{row['text']}"
        yield [str(ordinal), text, *(row[name] for name in fields)]


def whole_documents(inputs: Inputs, start: int, stop: int, fields: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield "FIRST-STOP", text and fields of the documents whose first passage has an ordinal in [start, stop).

    FIRST and STOP are the ordinals of the document's passages. Every title stands before its text, as plain Lucene over
    a BEIR collection has it, unless it is a field.
    """
    units = inputs["dedup.drop"].units
    for part in ChunkStore(inputs["chunk"]).ranges(start, stop):
        ids, texts = read_column(part.path, "doc_id"), dict[str, dict[str, str]]()
        for batch in document_batches(inputs["dedup.drop"].file(units[part.position]["index"], DOCUMENTS), TEXTS, 1024):
            texts.update((row["doc_id"], row) for row in batch.to_pylist())
        firsts = [row for row in range(len(ids)) if row == 0 or ids[row] != ids[row - 1]]
        for first, end in pairwise([*firsts, len(ids)]):
            if part.start <= first < part.stop:
                document, offset = texts[ids[first]], part.first - part.start
                title, text = document["title"], document["text"]
                if Extra.title.value not in fields and title not in ("", text):
                    text = f"{title}\n{text}"
                yield [f"{offset + first}-{offset + end}", text, *(document[name] for name in fields)]
