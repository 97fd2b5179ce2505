"""The collections that rankings are judged on, each as a corpus that a run takes: BEIR folders and the demo's pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError

Record = dict[str, Any]


def overrides_of(name: str, data: Path, folder: Path) -> list[str]:
    """Return the words that make a run read the collection; a BEIR folder is written to `folder` where it is one.

    Raises InputError where the data is not there.
    """
    if name == "pydoc":
        return ["corpus=pydoc", "corpus.latency_s=0", "corpus.delay_s=0"]
    kind, _, language = name.partition("-")
    if kind not in READERS:
        raise ConfigError(
            f"collections={name}: not one of pydoc, squad, cranfield, cisi; languages=de is XQuAD's German"
        )
    if not folder.is_dir():
        write_beir(folder, *READERS[kind](data, language))
    return ["corpus=beir", f"corpus.path={folder}", "stage.clean.min_chars=0"]


def write_beir(folder: Path, documents: Iterable[Record], queries: Iterable[Record], grades: Iterable[Record]) -> None:
    """Write a BEIR folder: corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    (folder / "qrels").mkdir(parents=True)
    for part, records in {"corpus": documents, "queries": queries}.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    rows = "".join(f"{row['query']}\t{row['document']}\t{row['grade']}\n" for row in grades)
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows, encoding="utf-8")


def _classic(name: str, data: Path) -> tuple[list[Record], list[Record], list[Record]]:
    """Return documents, queries and judgements of one of the old test collections."""
    folder = data / f"ir_{name}"
    documents = [
        {"_id": row["id"], "title": row["title"], "text": row["text"]} for row in _lines(folder / "docs.jsonl.zst")
    ]
    queries = [{"_id": row["id"], "text": row["text"]} for row in _lines(folder / "queries.jsonl")]
    judged = [line.split() for line in _read(folder / "qrels.txt").splitlines()]
    return documents, queries, [{"query": q, "document": d, "grade": int(grade)} for q, _, d, grade in judged]


def _squad(folder: Path, language: str = "") -> tuple[list[Record], list[Record], list[Record]]:
    """Return the passages, the answerable questions, and of each the passage that it was asked of."""
    documents = [
        {"_id": row["id"], "title": row["title"].replace("_", " "), "text": row["text"]}
        for row in _lines(folder / "passages.jsonl.zst")
        if row.get("lang", "") == language
    ]
    asked = [
        row
        for row in _lines(folder / "questions.jsonl.zst")
        if row.get("lang", "") == language and not row.get("is_impossible")
    ]
    queries = [{"_id": row["id"], "text": row["question"]} for row in asked]
    return documents, queries, [{"query": row["id"], "document": row["passage_id"], "grade": 1} for row in asked]


READERS: dict[str, Callable[[Path, str], tuple[list[Record], list[Record], list[Record]]]] = {
    "cranfield": lambda data, _: _classic("cranfield", data),
    "cisi": lambda data, _: _classic("cisi", data),
    "squad": lambda data, _: _squad(data / "qa_squad2"),
    "xquad": lambda data, language: _squad(data / "qa_xquad", language),
}


def _lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in _read(path).split("\n") if line]


def _read(path: Path) -> str:
    """Return the text of a file, which may be packed."""
    import zstandard

    if not path.is_file():
        raise InputError(f"{path}: not there; set RAG_HPC_DATA or data=FOLDER to the folder of the collections")
    if path.suffix != ".zst":
        return path.read_text(encoding="utf-8")
    with path.open("rb") as raw:
        return zstandard.ZstdDecompressor().stream_reader(raw).read().decode("utf-8")
