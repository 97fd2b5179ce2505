"""BEIR folders as a source: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, the files optionally .gz or .zst.

Format: https://github.com/beir-cellar/beir (Thakur et al. 2021).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.settings import bounded
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import PathConfig, ReadContext, SourceName
from rag_hpc.sources.files.files import FilesConfig, FilesSource
from rag_hpc.sources.files.jsonl import NoField, iter_records
from rag_hpc.sources.files.paths import refused
from rag_hpc.sources.files.questions import answers_of, held_out_of, question_text
from rag_hpc.stores.page import Page, Reject
from rag_hpc.stores.questions import Question

_SUFFIXES = ("", ".gz", ".zst")


@dataclass(kw_only=True)
class BeirConfig(PathConfig):
    """Settings of `corpus=beir`."""

    source: SourceName = SourceName.beir
    pages_per_unit: int = bounded(256, 1)
    keep_all: bool = field(default=True, metadata={"output": False})  # a judged document that is gone is a wrong figure


class BeirSource:
    """The documents of a BEIR folder; ids are their `_id`, title and text stay apart."""

    def split(self, corpus: BeirConfig, shared: Path) -> list[dict[str, Any]]:
        """Return parts of `pages_per_unit` documents of corpus.jsonl, in its order."""
        try:
            return FilesSource().split(_as_files(corpus), shared)
        except NoField as error:
            raise ConfigError(f"{error}. A BEIR folder's are _id, title, text; others: corpus=files") from error

    def read(self, part: dict[str, Any], corpus: BeirConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's documents and rejects in file order."""
        return FilesSource().read(part, _as_files(corpus), ctx)


def load_beir_questions(folder: Path, split: str = "test") -> list[Question]:
    """Return the queries that qrels/SPLIT.tsv judges, in the order of queries.jsonl, with their grades by document id.

    Answers are those in a query's metadata, {"answers": [...], "held_out": bool}, where it has any. Grades of 0 are
    kept: they are judgements too. Queries that nobody judged need no text. Raises InputError naming file and line.
    """
    qrels = _load_qrels(_member(folder, f"qrels/{split}.tsv", "the judgements", compressed=False))
    questions: list[Question] = []
    known: set[str] = set()
    path = _member(folder, "queries.jsonl", "the queries")
    for place, record in iter_records(path):
        query_id = record.get("_id")
        if not isinstance(query_id, str) or query_id in known:
            raise InputError(f"{place}: `_id` must be a string that no other query has, found {query_id!r}")
        known.add(query_id)
        if query_id in qrels:
            text = question_text(record, place)
            metadata = record.get("metadata")
            more = metadata if isinstance(metadata, dict) else {}
            answers, held_out = answers_of(more, place), held_out_of(more, place)
            relevant = qrels[query_id]
            questions.append({"id": query_id, "text": text, "answers": answers, "relevant": relevant, **held_out})
    missing = sorted(qrels.keys() - known)
    if missing:
        raise InputError(f"{path}: {len(missing)} judged queries are not there, first {missing[0]!r}")
    return questions


def load_beir_texts(folder: Path, ids: Container[str]) -> dict[str, str]:
    """Return the texts of the documents with these ids, each under its title, in the order of corpus.jsonl."""
    texts: dict[str, str] = {}
    for _, record in iter_records(_member(folder, "corpus.jsonl", "the documents")):
        doc_id, text = str(record.get("_id")), str(record.get("text") or "")
        if doc_id in ids and text.strip():
            texts[doc_id] = f"{record['title']}\n{text}" if record.get("title") else text
    return texts


def _as_files(corpus: BeirConfig) -> FilesConfig:
    if not corpus.path:
        raise ConfigError("corpus.path is not set: name the BEIR folder that holds corpus.jsonl")
    folder = Path(corpus.path).expanduser()
    path = _member(folder, "corpus.jsonl", "the documents")
    if refusal := refused(folder, path.name, follow=corpus.follow_links):
        raise ConfigError(f"{path}: {': '.join(refusal)}")
    return FilesConfig(**{**vars(corpus), "source": SourceName.files, "path": str(path), "id_field": "_id"})


def _member(folder: Path, name: str, meaning: str, compressed: bool = True) -> Path:
    for suffix in _SUFFIXES if compressed else ("",):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise ConfigError(f"{folder / name}: not there, and it holds {meaning}; corpus.path must be a BEIR folder")


def _load_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Return grades by query and document id from lines "query-id TAB corpus-id TAB score" under a header line."""
    grades: dict[str, dict[str, int]] = {}
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({error})") from error
    for number, line in enumerate(lines, start=1):
        columns = line.rstrip("\r").split("\t")
        if columns == [""] or (number == 1 and columns[-1] == "score"):
            continue
        if len(columns) != 3 or not columns[2].lstrip("-").isdecimal():
            raise InputError(f"{path}:{number}: query-id TAB corpus-id TAB integer score is needed, found {line!r}")
        query, document, grade = columns[0], columns[1], int(columns[2])
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{path}:{number}: query {query!r}, document {document!r} has two different scores")
    if not grades:
        raise InputError(f"{path}: holds no judgement")
    return grades
