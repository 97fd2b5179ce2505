"""Golden sets: made from a run, looked at, frozen; only approved questions count."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servedrun
import stagerun
from chatserver import ChatServer

from rag_hpc.cli import main
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import SourceName
from rag_hpc.stages.queries import load_questions
from rag_hpc.stores import golden

Call = Callable[..., str]


def record(number: int, status: str = "pending") -> dict[str, Any]:
    return {"id": f"g{number}", "text": f"What is {number}?", "answers": [str(number)], "review_status": status}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `rag-hpc golden` in a folder of its own; returns what is printed, or said of an error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, code: int = 0) -> str:
        assert main(["golden", *words]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    return call


def write(body: dict[str, Any]) -> str:
    """Ask about the first words of the passage; of some passages a thing that they do not hold."""
    text = body["messages"][-1]["content"]
    (passage,) = re.findall(r"<passage[^>]*>\n(.*?)\n</passage>", text, re.DOTALL)
    answer = " ".join(passage.split()[:4]) if len(passage) % 3 else "the moon is cheese"
    return f"Question: What begins with {passage.split()[0]}?\nAnswer: {answer}."


def test_a_model_s_questions_stand_in_their_passages_and_are_pending(
    chain: stagerun.Chain, call: Call, tmp_path: Path
) -> None:
    servedrun.make_run(chain, tmp_path)
    with ChatServer() as server:
        server.answer = write
        model = ["generator=openai", f"generator.base_url={server.url}", "generator.model=m"]
        said = call("generate", "g.jsonl", "run=demo", "num=6", *model)
        again = call("generate", "g.jsonl", "run=demo", "num=6", *model)
    found = golden.read_set(Path("g.jsonl"))
    assert "6 questions added; dropped: answer-not-in-passage" in said and "0 questions added" in again
    assert len({next(iter(one["relevant"])) for one in found}) == len(found) == 6
    texts = {row["chunk_id"]: row["text"] for row in chain.table("chunk", "chunks.parquet")}
    for one in found:
        assert one["passage"] == texts[one["chunk_id"]] and one["review_status"] == "pending"
        assert one["answers"][0].rstrip(".") in " ".join(one["passage"].split())
    assert not list(tmp_path.glob("*.replay"))


def test_without_a_model_titles_ask_and_say_so(chain: stagerun.Chain, call: Call, tmp_path: Path) -> None:
    servedrun.make_run(chain, tmp_path)
    call("generate", "g.jsonl", "run=demo", "num=3")
    found = golden.read_set(Path("g.jsonl"))
    assert len(found) == 3 and all(one["stand_in"] and one["made_by"]["generator"] == "titles" for one in found)
    call("review", "g.jsonl", "approve=all")
    assert all(one["stand_in"] for one in load_questions(SourceName.files, None, "g.jsonl", 1))


def test_only_approved_questions_are_asked(call: Call) -> None:
    golden.write_set(Path("g.jsonl"), map(record, range(4)))
    with pytest.raises(InputError, match="of 4 none is approved: rag-hpc golden review"):
        load_questions(SourceName.files, None, "g.jsonl", 1)
    assert "What is 2?" in call("review", "g.jsonl")  # no terminal: they are shown
    assert "2 pending, 1 approved, 1 rejected" in call("review", "g.jsonl", "approve=g1", "reject=g2")
    assert [q["id"] for q in load_questions(SourceName.files, None, "g.jsonl", 1)] == ["g1"]
    assert [q["id"] for q in load_questions(SourceName.pydoc, None, "g.jsonl", 8)] == ["g1"]
    assert "no question is called 'g9'" in call("review", "g.jsonl", "approve=g9", code=2)


def test_at_a_terminal_each_decision_is_kept_at_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    golden.write_set(Path("g.jsonl"), map(record, range(4)))
    said = iter(["x", "a", "s", "r", "q"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    call("review", "g.jsonl")
    assert [one["review_status"] for one in golden.read_set(Path("g.jsonl"))] == [
        *("approved", "pending", "rejected", "pending")
    ]


def test_a_frozen_set_is_refused_once_it_differs(call: Call) -> None:
    path = Path("g.jsonl")
    golden.write_set(path, map(record, range(2)))
    assert "2 questions are pending" in call("freeze", "g.jsonl", code=2)
    call("review", "g.jsonl", "approve=all")
    assert "2 questions, frozen as" in call("freeze", "g.jsonl") and "frozen" in call("freeze", "g.jsonl")
    assert len(load_questions(SourceName.files, None, "g.jsonl", 1)) == 2
    assert "is frozen and does not change" in call("review", "g.jsonl", "reject=g0", code=1)
    path.write_text(path.read_text().replace("What is 1?", "What is 7?"))
    with pytest.raises(InputError, match=r"has changed since it was frozen \(sha256 "):
        load_questions(SourceName.files, None, "g.jsonl", 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a"}', "g.jsonl:1: `id` and `text` are needed"),
        ('{"id": "a", "text": "b", "review_status": "fine"}', "`review_status` is 'fine'; known: pending"),
        ("{", "g.jsonl:1: is no JSON"),
        ('{"id": "a", "text": "b"}\n{"id": "a", "text": "c"}', "g.jsonl:2: `id` 'a' stands there twice"),
    ],
)
def test_what_is_no_set_is_named_with_its_line(line: str, said: str, call: Call) -> None:
    Path("g.jsonl").write_text(line)
    assert said in call("review", "g.jsonl", code=1)


def test_wrong_use_is_told(call: Call) -> None:
    assert "name the set" in call("freeze", code=2)
    assert "num=many: a whole number" in call("generate", "g.jsonl", "num=many", code=2)
    with pytest.raises(ConfigError, match="no question is called"):
        golden.reviewed([record(1)], ["g2"], golden.APPROVED)
