"""TREC's topics and judgements as questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_hpc.errors import InputError
from rag_hpc.sources.files.questions import read_questions


def test_topics_are_judged_by_the_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("1\twhat is lift?\n2\twhat is drag?\n")
    assert [q["relevant"] for q in read_questions(tmp_path / "t.tsv")] == [{}, {}]
    (tmp_path / "t.qrels").write_text("1 0 184 1\n1 0 29 0\n")
    first, second = read_questions(tmp_path / "t.tsv")
    assert (first["id"], first["text"], first["relevant"]) == ("1", "what is lift?", {"184": 1, "29": 0})
    assert second["relevant"] == {} and second["answers"] == []


@pytest.mark.parametrize(
    ("topics", "qrels", "said"),
    [
        ("1 no tab\n", "", r"t.tsv:1: a question is ID TAB TEXT"),
        ("1\ta\n1\tb\n", "", r"t.tsv:2: .*each id once"),
        ("1\ta\n", "1 0 d\n", r"t.qrels:1: QUESTION 0 DOCUMENT GRADE"),
        ("1\ta\n", "1 0 d 1\n1 0 d 2\n", r"t.qrels:2: .*two different grades"),
        ("1\ta\n", "9 0 d 1\n", r"1 judged questions are not in t.tsv, first '9'"),
        ("\n", "", "holds no question"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(topics: str, qrels: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(topics)
    (tmp_path / "t.qrels").write_text(qrels)
    with pytest.raises(InputError, match=said):
        read_questions(tmp_path / "t.tsv")
