"""The benchmark of training: its halves share no article, its measures are those of one right passage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.train import train

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
