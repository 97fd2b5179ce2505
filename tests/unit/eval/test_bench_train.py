"""The benchmark of training: its halves share no article, its measures are those of one right passage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.train import adapted, reranked, train

DOCUMENTS = [{"_id": f"p{i}", "title": f"article {i // 3}", "text": f"text {i}"} for i in range(30)]
QUERIES = [{"_id": f"q{i}", "text": f"text {i}"} for i in range(30)]
GRADES = [{"query": f"q{i}", "document": f"p{i}", "grade": 1} for i in range(30)]


def test_halves_share_no_article_and_leave_no_question_out() -> None:
    parts = train.halves(DOCUMENTS, QUERIES, GRADES)
    titles = [{DOCUMENTS[int(row["document"][1:])]["title"] for row in grades} for _, grades in parts]
    assert titles[0].isdisjoint(titles[1]) and len(titles[0]) == len(titles[1]) == 5
    assert sorted(row["_id"] for queries, _ in parts for row in queries) == sorted(row["_id"] for row in QUERIES)


class Fixed:
    """Puts the passage of question i on place i + 1."""

    def encode(self, texts: list[str], **given: Any) -> Any:
        if len(texts) == 30:  # passages, titles above them
            return np.eye(30, dtype=np.float32)
        places = [int(text.split()[1]) for text in texts]
        rows = np.zeros((len(places), 30), dtype=np.float32)
        for row, right in zip(rows, places, strict=True):
            order = [*[i for i in range(30) if i != right][:right], right]
            row[order] = np.linspace(1.0, 0.5, len(order))
        return rows


def test_measures_are_those_of_the_rank_of_the_right_passage() -> None:
    found = train.measured(Fixed(), DOCUMENTS, QUERIES[:12], GRADES)  # type: ignore[arg-type]
    assert found["R@1"] == [1.0] + [0.0] * 11 and found["R@10"] == [1.0] * 10 + [0.0] * 2
    assert found["nDCG@10"][:3] == pytest.approx([1.0, 0.6309298, 0.5]) and found["nDCG@10"][10:] == [0.0, 0.0]


def test_the_data_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(InputError, match="set RAG_HPC_DATA or data=FOLDER"):
        train.run({})
    with pytest.raises(ConfigError, match="no option 'epoch' here"):
        train.run({"epoch": "2"})


def test_questions_about_the_pages_ask_of_pages_that_are_held_out() -> None:
    asked = adapted.questions()
    assert len({row["text"] for row in asked}) == len({row["page"] for row in asked}) == len(asked) > 60
    wanted = {row["page"] for row in asked}
    pages = [{"_id": page} for page in sorted(wanted)] + [{"_id": f"p{i}"} for i in range(200)]
    seen, searched = ({row["_id"] for row in part} for part in adapted.split(pages, wanted, 20, 4))
    assert wanted < searched and not seen & searched and len(seen) == -(-(len(pages) - len(searched)) // 4)


def test_a_reranker_changes_the_head_of_a_list_alone() -> None:
    assert reranked.reordered([7, 8, 9, 5], [0.1, 0.3, 0.3, 9.0], 3) == [8, 9, 7, 5]
    assert reranked.reordered([7, 8], [0.1, 0.3], 10) == [8, 7]
    assert train.measures_of([1, float("inf")]) == {"nDCG@10": [1.0, 0.0], "R@1": [1.0, 0.0], "R@10": [1.0, 0.0]}


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parts=other: known are encoder, reranker, adapted"):
        train.run({"data": str(tmp_path), "parts": "other"})
