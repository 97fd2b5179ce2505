"""Questions of a corpus: its own, those of a file, those in the package, or titles."""

from __future__ import annotations

from pathlib import Path

import fixedcorpus
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_hpc.errors import ConfigError
from rag_hpc.sources.base import SourceName
from rag_hpc.stages.queries import find_file, known_items, load_questions


def test_file_of_questions_goes_before_those_of_a_beir_folder(tmp_path: Path) -> None:
    beir = str(fixedcorpus.write_beir(tmp_path / "beir"))
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "x", "text": "mine?"}\n')
    assert [q["id"] for q in load_questions(SourceName.beir, beir, None, 8)] == [f"q{n}" for n in range(8)]
    mine = {"id": "x", "text": "mine?", "answers": [], "relevant": {}}
    assert load_questions(SourceName.beir, beir, str(own), 8) == [mine]


def test_source_without_questions_has_none(tmp_path: Path) -> None:
    assert load_questions(SourceName.files, str(tmp_path), None, 8) == []
    assert load_questions(SourceName.beir, None, None, 8) == []


def test_questions_of_the_package_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    carried = find_file("pydoc_questions.jsonl")
    assert carried.is_file() and carried.parent.name == "corpus"
    (tmp_path / "pydoc_questions.jsonl").write_text("")
    assert find_file("pydoc_questions.jsonl") == Path("pydoc_questions.jsonl")  # the user's own comes first
    found = load_questions(SourceName.pydoc, None, str(carried), 8)
    assert len(found) > 20 and {"id", "text", "answers", "relevant"} <= set(found[0])


def test_absent_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"corpus.questions=nope.jsonl: no such file"):
        find_file("nope.jsonl")


def test_title_that_several_documents_share_asks_nothing() -> None:
    pairs = [("a", "One title"), ("b", "One title "), ("c", "Word"), ("d", "Another title"), ("e", "")]
    assert [(q["text"], q["relevant"]) for q in known_items(pairs, 10)] == [("Another title", {"d": 1})]


@given(st.permutations([(f"d{n}", f"title number {n}") for n in range(12)]), st.integers(1, 15))
def test_choice_does_not_depend_on_the_order_of_documents(pairs: list[tuple[str, str]], limit: int) -> None:
    found = known_items(pairs, limit)
    assert found == known_items(sorted(pairs), limit)
    assert len(found) == min(limit, 12) and [q["id"] for q in found] == [f"known-{n:04d}" for n in range(len(found))]
    assert found == known_items(pairs, 15)[:limit]
