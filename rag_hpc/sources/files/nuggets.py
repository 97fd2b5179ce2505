"""Nuggets by question, as TREC RAG's tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_hpc.algo.answer.nuggets import Nugget
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.files.jsonl import iter_records

IMPORTANCE = {"vital": True, "okay": False}


def read_nuggets(path: Path) -> dict[str, list[Nugget]]:
    """Return question id -> nuggets from lines {"qid", "nuggets": [{"text", "importance": "vital" or "okay"}]}.

    Raises ConfigError where there is no such file, and InputError that names file and line.
    """
    if not path.is_file():
        raise ConfigError(f"stage.evaluate.nuggets={path}: no such file; it is JSONL of {{qid, nuggets}}")
    found: dict[str, list[Nugget]] = {}
    for place, record in iter_records(path):
        query_id = record.get("qid", record.get("query_id"))
        if isinstance(query_id, int) and not isinstance(query_id, bool):
            query_id = str(query_id)
        if not isinstance(query_id, str) or not query_id or query_id in found:
            raise InputError(f"{place}: `qid` must be a string that no other line has, found {query_id!r}")
        nuggets = record.get("nuggets")
        if not isinstance(nuggets, list) or not all(map(_is_nugget, nuggets)):
            raise InputError(f'{place}: `nuggets` must be a list of {{"text", "importance": "vital" or "okay"}}')
        found[query_id] = [Nugget(text=one["text"], vital=IMPORTANCE[one["importance"]]) for one in nuggets]
    if not any(found.values()):
        raise InputError(f"{path}: holds no nugget")
    return found


def _is_nugget(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not value["text"].strip():
        return False
    return value.get("importance") in ("vital", "okay")
