"""An encoder adapted to a corpus without labels: Microsoft's C++ pages, whose titles and headings ask for their text.

It is judged on pages that were held out of training, by the questions of `cpp_questions.jsonl`, written in other words
than the pages: over the ranking that a run hands on, and over the vectors alone.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_hpc.core.record import pressure_cpu
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.chunk.quality import json_lines
from rag_hpc.eval.bench.rank.collections import Record, write_beir
from rag_hpc.eval.bench.registry import Options
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.bench.train.runs import TO_CHUNKS, lift_row, ran, trained
from rag_hpc.eval.bench.train.train import MEASURES, measures_of, settings_of
from rag_hpc.eval.results import Results
from rag_hpc.models.folder import MINILM
from rag_hpc.stores.hits import HITS, Method

Parts = tuple[list[Record], list[Record]]


def adapted_rows(data: Path, folder: Path, given: Options) -> Iterator[Row]:
    """Yield the lift, one a measure and ranking."""
    asked = questions()
    seen, searched = pages_of(data, given, {row["page"] for row in asked})
    queries = [{"_id": row["id"], "text": row["text"]} for row in asked]
    grades = [{"query": row["id"], "document": row["page"], "grade": 1} for row in asked]
    for name, part in (("cpp-seen", seen), ("cpp", searched)):
        if not (folder / name / "beir").is_dir():
            write_beir(folder / name / "beir", part, queries, grades)
    before = pressure_cpu() or 0.0
    ran(folder, "cpp-seen", folder / "cpp-seen" / "beir", stages=TO_CHUNKS)
    found = trained(folder, "encoder", "cpp-adapted", "train.run=cpp-seen", "train.labels=mined", *settings_of(given))
    contention = max(before, pressure_cpu() or 0.0)
    runs = [
        ran(folder, name, folder / "cpp" / "beir", f"stage.encode.model={model}")
        for name, model in (("cpp-after", found.model), ("cpp-before", MINILM))
    ]
    ranks = [ranks_of(run, grades) for run in runs]
    pages = f"{len(searched)} pages searched, {len(seen)} others learnt from"
    note = f"{len(asked)} questions; {pages}; {found.said}"
    for method in (Method.dense.value, Method.fused.value):
        ours, theirs = (measures_of(by_method[method]) for by_method in ranks)
        for measure in MEASURES:
            is_judged = measure == MEASURES[0]
            yield lift_row(
                f"train.cpp.{method}", measure, ours[measure], theirs[measure], note, contention, bar=is_judged
            )


def questions() -> list[dict[str, str]]:
    """Return the written questions, each with the page that answers it."""
    text = (importlib.resources.files("rag_hpc.eval.bench.train") / "cpp_questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pages_of(data: Path, given: Options, wanted: set[str]) -> Parts:
    """Return the pages to train on, and those to search, the wanted ones among them; they share none.

    Raises InputError where the documentation is not there.
    """
    path = data / "docs_cpp" / "docs.jsonl.zst"
    if not path.is_file():
        raise InputError(f"bench train: {path} does not exist; give data=FOLDER of the shared corpora")
    pages = [{"_id": row["id"], "title": row["title"], "text": row["text"]} for row in json_lines(path)]
    if lacking := wanted - {page["_id"] for page in pages}:
        raise InputError(f"bench train: {path} lacks {len(lacking)} of the pages asked for, such as {min(lacking)}")
    return split(pages, wanted, int(given["searched"]), int(given["learnt"]))


def split(pages: Sequence[Record], wanted: set[str], searched: int, learnt: int) -> Parts:
    """Return every `learnt`-th of the pages that are not searched, and every `searched`-th with the wanted ones."""
    chosen = {page["_id"] for page in pages[::searched]} | wanted
    others = [page for page in pages if page["_id"] not in chosen]
    return others[::learnt], [page for page in pages if page["_id"] in chosen]


def ranks_of(run: Results, grades: Sequence[Record]) -> dict[str, list[float]]:
    """Return, by ranking, at which place each question's page is, from 1; inf where it is not among the hits."""
    found: dict[str, list[float]] = {}
    rows = run.rows("retrieve.search", HITS)
    for method in (Method.dense.value, Method.fused.value):
        listed: dict[str, dict[str, None]] = {}
        for row in sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["rank"])):
            listed.setdefault(row["query_id"], {})[row["doc_id"]] = None
        places = [list(listed.get(row["query"], {})) for row in grades]
        found[method] = [
            place.index(row["document"]) + 1.0 if row["document"] in place else float("inf")
            for place, row in zip(places, grades, strict=True)
        ]
    return found
