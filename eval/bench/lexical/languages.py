"""How many of XQuAD's questions find their passage among ten hits, each text by its language's analyser or by English.

Twelve languages have the same 240 passages and 1,190 questions: an index of each, and one of all. Every second question
is judged; the others chose the length of the grams of characters.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag_hpc.algo.types import F64
from rag_hpc.core.comm import SerialComm
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank.collections import READERS
from rag_hpc.eval.bench.rows import Row
from rag_hpc.search import lucene
from rag_hpc.search.jvm import Analyzer
from rag_hpc.search.languages import ENGLISH, of_passage
from rag_hpc.search.questions import Questions
from rag_hpc.search.shards import Shards
from rag_hpc.stores.chunks import split_evenly

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
LEAST = {"th": 0.90}  # of others: what the English analyser finds
_HITS = 10


@dataclass(frozen=True, kw_only=True)
class Part:
    """A collection in one language: its passages, its questions, and the passage of each."""

    language: str
    texts: list[str]
    questions: list[str]
    answers: list[int]


def part_of(data: Path, language: str) -> Part:
    """Return the judged half of a language of XQuAD. Raises InputError where the data is not there."""
    documents, queries, grades = READERS["xquad"](data, language)
    places = {row["_id"]: number for number, row in enumerate(documents)}
    answers = {row["query"]: places[row["document"]] for row in grades}
    judged = queries[1::2]
    return Part(
        language=language,
        texts=[row["text"] for row in documents],
        questions=[row["text"] for row in judged],
        answers=[answers[row["_id"]] for row in judged],
    )


def rows(data: Path, num_shards: int) -> list[Row]:
    """Return a row of each language alone, and of each among all."""
    parts = [part_of(data, language) for language in LANGUAGES]
    found = []
    for prefix, together in [*(("", [part]) for part in parts), ("together.", parts)]:
        auto, english = (recall(together, by, num_shards) for by in (Analyzer.auto.value, ENGLISH))
        found += [_row(prefix, part, auto[part.language], english[part.language]) for part in together]
    return found


def recall(parts: Sequence[Part], analyzer: str, num_shards: int) -> dict[str, F64]:
    """Return by language whether each question has its passage among the hits, in an index of all parts."""
    texts = [text for part in parts for text in part.texts]
    by_text = [of_passage(text, part.language) for part in parts for text in part.texts]
    auto = analyzer == Analyzer.auto.value
    known = [name for name, _ in Counter(by_text).most_common()] if auto else [analyzer]
    with tempfile.TemporaryDirectory(prefix="rag-hpc-bench-") as made:
        folders = []
        for number, (start, stop) in enumerate(split_evenly(len(texts), num_shards)):
            folders.append(Path(made) / str(number))
            documents = ([str(n), texts[n], *[by_text[n]] * auto] for n in range(start, stop))
            lucene.build_index(documents, folders[-1], lucene.Indexing(analyzer=analyzer))
        shards = Shards(folders)
        questions = Questions(shards, SerialComm(), {}, 0.9, 0.4, [1.0], known)
        found, first = {}, 0
        for part in parts:
            docs = shards.top(questions.queries(part.questions), _HITS)[1]
            answers = first + np.array(part.answers)[:, None]
            found[part.language] = (docs == answers).any(axis=1).astype(np.float64)
            first += len(part.texts)
        shards.close()
    return found


def _row(prefix: str, part: Part, auto: F64, english: F64) -> Row:
    gain, (low, high) = difference_of_means(auto.tolist(), english.tolist())
    return Row(
        name=f"lexical.languages.{prefix}{part.language}",
        ours=float(auto.mean()),
        unit=f"recall@{_HITS}",
        peers={"english": float(english.mean())},
        bar=LEAST.get(part.language, float(english.mean())),
        note=f"{len(auto)} questions; over the English analyser {gain:+.4f} [{low:+.4f}, {high:+.4f}]",
    )
