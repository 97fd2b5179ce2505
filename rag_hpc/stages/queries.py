"""retrieve.queries: the corpus's questions, or known-item queries where it has none, with their vectors.

A question: {"id", "text", "answers": [...], "relevant": {doc_id: grade}, "held_out": bool}.
Known-item search (Azzopardi and de Rijke 2006): a title asks, its own document answers. It tells that retrieval works
where nobody wrote questions, not how good it is: a title finds its document nearly always. Its results say so.
"""

from __future__ import annotations

import importlib.resources
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rag_hpc.algo.types import Array
from rag_hpc.core.hashing import hash_value
from rag_hpc.core.log import shown
from rag_hpc.core.settings import bounded, check_bounds, path_field
from rag_hpc.core.stage import Context, Inputs, Stage, plain
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.models.device import Device, Precision
from rag_hpc.models.encoders import EncoderConfig, get_encoder
from rag_hpc.sources.base import ROUNDS, SourceName
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.documents import DOCUMENTS
from rag_hpc.stores.golden import is_golden
from rag_hpc.stores.questions import FOUND_AGAIN, Question, known_items, write_questions
from rag_hpc.stores.tables import REJECTS, read_column, read_table, rows_of
from rag_hpc.stores.vectors import VectorStore, check_same_space

log = logging.getLogger(__name__)
NOT_THERE = "not in the corpus"


@dataclass(kw_only=True)
class QueriesConfig:
    """Where questions come from; YAML fills most fields from the corpus and the encoder."""

    source: SourceName = SourceName.files
    path: str | None = path_field()
    questions: str | None = path_field(only="file")
    num_hosts: int = 8
    num_known_items: int = 100  # queries made from titles when the corpus has no questions
    model: str = path_field("minilm", only="folder")
    prefix: str = ""  # text put before each query, for encoders that were trained with one
    # share of the relevant ids that no document may have; of a corpus cut short by max_pages any share may
    max_absent: float = bounded(0.01, 0.0, 1.0, output=False)
    max_pages: int = field(default=0, metadata={"output": False})  # of the corpus
    dims: int = 0  # as of stage.encode
    device: Device = Device.auto
    precision: Precision = Precision.auto
    threads: int = 1
    encoder: EncoderConfig = field(default_factory=EncoderConfig, metadata={"output": False})  # as of stage.encode

    def __post_init__(self) -> None:
        if self.num_known_items < 1:
            raise ConfigError(f"stage.queries.num_known_items={self.num_known_items}: at least 1; try 100")
        check_bounds(self, "stage.queries")


class Queries(Stage):
    """Writes the questions once, for all stages after it."""

    Config: ClassVar[type] = QueriesConfig
    name = "retrieve.queries"
    version = 4
    needs = ("dedup.drop",)
    wants = (*ROUNDS, "clean", "chunk", "encode")  # for what they dropped; to try how well the encoder knows the corpus

    def plan(self, inputs: Inputs, shared: Path) -> list[Unit]:
        """Return the single unit; it carries the hash of the questions, whose file may change under its name."""
        questions = self._given()
        self._check_ids(questions, inputs)
        asked = {"encoder": plain(self.config.encoder)} if self.config.encoder.is_remote else {}
        return [Unit(0, {"questions": hash_value(questions), **asked})]

    def run(self, unit: Unit, out: Path, ctx: Context) -> Counts:
        """Write queries.parquet and vectors.npy [Q, D] float16.

        The counts' extra figures: the ids judged relevant, those among them without a document, titles that ask, and
        how well the encoder knows the corpus.
        """
        from rag_hpc.models.tokens import TokenCounter
        from rag_hpc.search.trial import known_share

        questions = self._given()
        if hash_value(questions) != unit.inputs["questions"]:
            where = self.config.questions or self.config.path
            raise InputError(f"questions of {where} changed since the plan was made; run again")
        questions = questions or self._known_items(ctx)
        if not questions:
            raise InputError(
                "no questions, and no document has a title of its own, of two words or more, to make one "
                "from; set corpus.questions"
            )
        config = self.config
        how: dict[str, Any] = {"threads": config.threads, "dims": config.dims, "device": config.device}
        encoder = get_encoder(config.encoder, config.model, config.precision, check_stop=ctx.check_stop, **how)
        wanted = encoder.recipe.missing_prefix(("query",), config.prefix)
        if wanted is not None:
            ctx.log.warning(
                "queries: %s was trained with %r before queries; see stage.queries.prefix", config.model, wanted
            )
        if "encode" in ctx.inputs:
            check_same_space(encoder.facts(), ctx.inputs["encode"])

        def encode(texts: Sequence[str]) -> Array:
            return encoder.encode([config.prefix + text for text in texts], allow_truncate=True)

        absent, stand_ins = absent_ids(questions, ctx.inputs), sum(bool(q.get("stand_in")) for q in questions)
        write_questions(out, questions, encode([q["text"] for q in questions]), absent)
        numbers = {"relevant": len(relevant_ids(questions)), "absent": len(absent), "stand_ins": stand_ins}
        counts = Counts(items_in=len(questions), items_out=len(questions))
        counts.extra = {name: float(number) for name, number in numbers.items()}
        if "chunk" in ctx.inputs and "encode" in ctx.inputs:
            stores = ChunkStore(ctx.inputs["chunk"]), VectorStore(ctx.inputs["encode"])
            # what an endpoint's tokenizer knows is not told
            unknown = (lambda texts: 0.0) if config.encoder.is_remote else TokenCounter(config.model).unknown_share
            known = known_share(*stores, encode, unknown)
            counts.extra |= {} if known is None else {FOUND_AGAIN: known}
        return counts

    def _check_ids(self, questions: list[Question], inputs: Inputs) -> None:
        """Warn of relevant ids without a document; raise InputError when too many are in no document of the corpus."""
        absent, num = absent_ids(questions, inputs), len(relevant_ids(questions))
        if not absent:
            return
        lacking = sorted(doc_id for doc_id, reason in absent.items() if reason == NOT_THERE)
        first = ", ".join(repr(shown(doc_id)) for doc_id in (lacking or sorted(absent))[:5])
        said = (
            f"of {num} documents that are judged relevant, the corpus lacks {len(lacking)} and "
            f"{len(absent) - len(lacking)} were dropped; the first: {first}"
        )
        if not self.config.max_pages and len(lacking) > self.config.max_absent * num:
            raise InputError(
                f"{said}. Are the ids of the questions those of the documents (corpus.id_field)? "
                f"To go on all the same: stage.queries.max_absent={math.ceil(100 * len(lacking) / num) / 100:g}"
            )
        log.warning("%s; all are in queries.parquet, column absent", said)

    def _given(self) -> list[Question]:
        config = self.config
        return load_questions(config.source, config.path, config.questions, config.num_hosts)

    def _known_items(self, ctx: Context) -> list[Question]:
        documents = rows_of(ctx.inputs["dedup.drop"], DOCUMENTS, ["doc_id", "title"])
        pairs = [(document["doc_id"], document["title"]) for document in documents]
        return known_items(pairs, self.config.num_known_items)


def relevant_ids(questions: Iterable[Question]) -> set[str]:
    """Return the ids of the documents that are judged relevant to any of the questions."""
    return {doc_id for q in questions for doc_id, grade in q.get("relevant", {}).items() if grade > 0}


def absent_ids(questions: Iterable[Question], inputs: Inputs) -> dict[str, str]:
    """Return the relevant ids without a document among those that are left, and why: what dropped it, or NOT_THERE."""
    left = relevant_ids(questions)
    for path in inputs["dedup.drop"].files(DOCUMENTS) if left else ():
        left.difference_update(read_column(path, "doc_id"))
    absent = dict.fromkeys(left, NOT_THERE)
    for found in inputs.values() if left else ():
        for path in found.files(REJECTS):
            rows = read_table(path, ["id", "reason"]).to_pylist()
            absent.update((row["id"], row["reason"]) for row in rows if row["id"] in left)
    return dict(sorted(absent.items()))


def load_questions(source: SourceName, path: str | None, questions: str | None, num_hosts: int) -> list[Question]:
    """Return the corpus's questions in file order, an empty list when it has none.

    `questions` names a file, or a file that the package carries. Raises InputError for a file that cannot be read.
    """
    if questions is not None:
        path_of_questions = find_file(questions)
        if source is SourceName.pydoc and path_of_questions.suffix == ".jsonl" and not is_golden(path_of_questions):
            from rag_hpc.demo.source import load_questions as load_pydoc

            return load_pydoc(path_of_questions, num_hosts)
        from rag_hpc.sources.files.questions import read_questions

        return read_questions(path_of_questions)
    if source is SourceName.beir and path:
        from rag_hpc.sources.files.beir import load_beir_questions

        return load_beir_questions(Path(path))
    return []


def find_file(name: str) -> Path:
    """Return the path of a questions file: as given, or in the package's corpus folder. ConfigError otherwise."""
    carried = Path(str(importlib.resources.files("rag_hpc.conf"))) / "corpus" / name
    for path in (Path(name), carried):
        if path.is_file():
            return path
    raise ConfigError(f"corpus.questions={name}: no such file here, nor one that the package carries")
