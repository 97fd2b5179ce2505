"""The bench of lexical search: what is asked of what, hits checked one by one, and a peer that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

zstandard = pytest.importorskip("zstandard")
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.eval.bench.lexical import corpora, lexical
from rag_hpc.search import jvm

WORDS = "pointer array class template loop string value type header link".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for source in corpora.SOURCES:
        rows = [
            {
                "title": f"{WORDS[n % 10]} {WORDS[n // 10]}",
                "text": f"# {source}\n\n" + " ".join(WORDS[(n * m) % 10] for m in range(1, 60 + n)),
            }
            for n in range(40)
        ]
        (folder / source).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / source / "docs.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    return folder


def test_questions_are_titles_and_beginnings_in_turns(data: Path) -> None:
    asked = corpora.questions(data, 6)
    assert [len(text.split()) for text in asked] == [2, corpora.ASKED_WORDS] * 3
    assert asked == corpora.questions(data, 6) and not any("#" in text for text in asked)


def test_passages_hold_every_word_of_all_sources_once(data: Path) -> None:
    passages, pages = corpora.texts("passages", data, 10**6), corpora.texts("pages", data, 7)
    assert len(pages) == 7 and max(len(text.split()) for text in passages) == corpora.WORDS
    whole = sum(len(row["text"].split()) for row in corpora.json_lines(data / corpora.PAGES / "docs.jsonl.zst"))
    assert sum(len(text.split()) for text in passages) == 3 * whole


def test_all_shards_hits_are_those_of_every_document_s_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        jvm.require_java()
    except MissingDependency as error:
        pytest.skip(str(error))
    monkeypatch.setattr(lexical, "WARM_UP", 1)
    options = {"data": str(data), "corpora": "passages", "questions": "12", "pairs": "7", "shards": "2"}
    rows = {row.name: row for row in lexical.run({**options, "bm25s_python": "none"})}
    names = [name for k in (10, 100) for name in (f"top{k}", f"top{k}.cpu", f"same{k}")]
    assert list(rows) == [f"lexical.passages.{name}" for name in names]
    assert rows["lexical.passages.same10"].met and rows["lexical.passages.same100"].met
    for fast in (rows["lexical.passages.top10"], rows["lexical.passages.top10.cpu"]):
        assert set(fast.peers) == {"lucene", "anserini"} and fast.bar == 0.87 and fast.ours > 0
        assert fast.ratio == pytest.approx(fast.ours / max(fast.peers.values()))


def test_a_python_without_bm25s_is_told_how_to_get_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MissingDependency, match=r"bm25s_python=PYTHON.*pip install bm25s"):
        with lexical._bm25s(str(python), [], [], tmp_path):
            pass


def test_options_that_it_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(ConfigError, match="no option 'k'"):
        lexical.run({"k": "3"})
    with pytest.raises(InputError, match="RAG_HPC_DATA"):
        lexical.run({})
