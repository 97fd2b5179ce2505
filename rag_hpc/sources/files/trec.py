"""TREC's files of questions: topics as "id TAB text" lines, and beside them judgements, "id 0 document grade"."""

from __future__ import annotations

from pathlib import Path

from rag_hpc.errors import InputError
from rag_hpc.stores.questions import Question

TOPICS, QRELS = ".tsv", ".qrels"


def read_topics(path: Path) -> list[Question]:
    """Return the questions of NAME.tsv in its order, judged by NAME.qrels where that is beside it.

    Raises InputError that names file and line.
    """
    questions: list[Question] = []
    for number, line in _lines(path):
        query_id, tab, text = line.partition("\t")
        if not (tab and query_id.strip() and text.strip()) or query_id in {q["id"] for q in questions}:
            raise InputError(f"{path}:{number}: a question is ID TAB TEXT, each id once, found {line[:80]!r}")
        questions.append({"id": query_id, "text": text.strip(), "answers": [], "relevant": {}})
    judged = path.with_suffix(QRELS)
    grades = read_qrels(judged) if judged.exists() else {}
    if unknown := sorted(grades.keys() - {q["id"] for q in questions}):
        raise InputError(f"{judged}: {len(unknown)} judged questions are not in {path.name}, first {unknown[0]!r}")
    if not questions:
        raise InputError(f"{path}: holds no question")
    return [{**question, "relevant": grades.get(question["id"], {})} for question in questions]


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Return the grades by question and document id. Raises InputError that names file and line."""
    grades: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        columns = line.split()
        if len(columns) != 4 or not columns[3].lstrip("-").isdecimal():
            raise InputError(f"{path}:{number}: QUESTION 0 DOCUMENT GRADE is needed, found {line[:80]!r}")
        query_id, _, doc_id, grade = columns
        if grades.setdefault(query_id, {}).setdefault(doc_id, int(grade)) != int(grade):
            raise InputError(f"{path}:{number}: question {query_id!r}, document {doc_id!r} has two different grades")
    return grades


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({error})") from error
    return [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
