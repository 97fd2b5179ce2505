"""Files of nuggets, as TREC RAG's tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rag_hpc.algo.answer.nuggets import Nugget
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.files.nuggets import read_nuggets

GOOD = {"qid": "2024-1", "query": "q", "nuggets": [{"text": "a fact", "importance": "vital", "assignment": "support"}]}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_are_read_by_question(tmp_path: Path) -> None:
    other = {"query_id": 7, "nuggets": [{"text": "another", "importance": "okay"}]}
    found = read_nuggets(written(tmp_path / "n.jsonl", GOOD, other))
    assert found == {"2024-1": [Nugget(text="a fact", vital=True)], "7": [Nugget(text="another", vital=False)]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GOOD, GOOD], r"n.jsonl:2: `qid` must be a string that no other line has"),
        ([{**GOOD, "nuggets": [{"text": "x", "importance": "nice"}]}], r"n.jsonl:1: `nuggets` must be a list"),
        ([{**GOOD, "nuggets": []}], "holds no nugget"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_nuggets(written(tmp_path / "n.jsonl", *rows))
    with pytest.raises(ConfigError, match="no such file"):
        read_nuggets(tmp_path / "none.jsonl")
