"""Questions of an evaluation set, with the answers and the relevant documents that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.files.jsonl import iter_records
from rag_hpc.sources.files.trec import TOPICS, read_topics
from rag_hpc.stores.golden import check_frozen, counts
from rag_hpc.stores.questions import Question


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSONL file (also .gz, .zst) in its order: {id, text, answers?, relevant?, held_out?}.

    `relevant` is {doc_id: grade}; answers of [""] say that there is none. Of a golden set the approved ones are
    returned. NAME.tsv: see `read_topics`. Raises InputError naming file and line, and for a frozen set that changed.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of questions; set corpus.questions to a JSONL of {{id, text}}")
    if path.suffix == TOPICS:
        return read_topics(path)
    check_frozen(path)
    questions: list[Question] = []
    known: set[str] = set()
    for place, record in iter_records(path):
        question_id = record.get("id")
        if isinstance(question_id, int) and not isinstance(question_id, bool):
            question_id = str(question_id)
        if not isinstance(question_id, str) or not question_id or question_id in known:
            raise InputError(f"{place}: `id` must be a string that no other question has, found {question_id!r}")
        known.add(question_id)
        if not counts(record, place):
            continue
        questions.append(
            {
                "id": question_id,
                "text": question_text(record, place),
                "answers": answers_of(record, place),
                "relevant": _relevant(record.get("relevant"), place),
                **held_out_of(record, place),
                **({"stand_in": True} if record.get("stand_in") is True else {}),
            }
        )
    if not questions:
        pending = f", of {len(known)} none is approved: rag-hpc golden review {path}" if known else ""
        raise InputError(f"{path}: holds no question{pending}")
    return questions


def question_text(record: dict[str, Any], place: str) -> str:
    """Return the text of a question record. Raises InputError if it has none."""
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place}: `text` must be a string that is not blank")
    return text


def held_out_of(record: dict[str, Any], place: str) -> dict[str, bool]:
    """Return {"held_out": true} where a record says that nothing was tuned on its question. InputError for no bool."""
    value = record.get("held_out", False)
    if not isinstance(value, bool):
        raise InputError(f"{place}: `held_out` must be true or false")
    return {"held_out": True} if value else {}


def answers_of(record: dict[str, Any], place: str) -> list[str]:
    """Return the answers that a record gives, none where it has none. Raises InputError for what is no list of them."""
    value = record.get("answers")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(answer, str) for answer in value):
        raise InputError(f"{place}: `answers` must be a list of strings")
    return value


def _relevant(value: object, place: str) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, dict) or any(type(grade) is not int for grade in value.values()):
        raise InputError(f"{place}: `relevant` must map document ids to integer grades")
    return value
