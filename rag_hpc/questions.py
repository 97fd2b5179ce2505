"""Questions of a corpus: its own, those of a file, or known-item queries made from titles.

A question: {"id", "text", "answers": [...], "relevant": {doc_id: grade}, "held_out": bool}.
Known-item search (Azzopardi and de Rijke 2006): a title asks, its own document answers. It judges retrieval where
nobody wrote questions, and is easier than real ones, which is why its results are labelled as such.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import SourceName

Question = dict[str, Any]


def load(source: SourceName, path: str | None, questions: str | None, num_hosts: int) -> list[Question]:
    """Return the corpus's questions in file order, an empty list when it has none.

    `questions` names a file, or a file that the package carries. Raises InputError for a file that cannot be read.
    """
    if questions is not None:
        found = find_file(questions)
        if source is SourceName.pydoc:
            from rag_hpc.sources import pydoc

            return pydoc.load_questions(found, num_hosts)
        from rag_hpc.sources.questions import load_questions

        return load_questions(found)
    if source is SourceName.beir and path:
        from rag_hpc.sources.beir import load_beir_questions

        return load_beir_questions(Path(path))
    return []


def find_file(name: str) -> Path:
    """Return the path of a questions file: as given, or in the package's corpus folder. ConfigError otherwise."""
    carried = Path(str(importlib.resources.files("rag_hpc.conf"))) / "corpus" / name
    for path in (Path(name), carried):
        if path.is_file():
            return path
    raise ConfigError(f"corpus.questions={name}: no such file here, nor one that the package carries")


def known_items(documents: Iterable[tuple[str, str]], limit: int) -> list[Question]:
    """Return at most `limit` questions from (doc_id, title) pairs, chosen by hash, ids in that order.

    Titles that several documents share are left out: they do not tell their document from the others.
    """
    by_title: dict[str, list[str]] = {}
    for doc_id, title in documents:
        if len(title.split()) >= 2:
            by_title.setdefault(title.strip(), []).append(doc_id)
    single = [(title, ids[0]) for title, ids in by_title.items() if len(ids) == 1]
    chosen = sorted(single, key=lambda pair: hashlib.sha256(pair[1].encode()).digest())[:limit]
    return [{"id": f"known-{number:04d}", "text": title, "answers": [], "relevant": {doc_id: 1}, "held_out": False}
            for number, (title, doc_id) in enumerate(chosen)]
