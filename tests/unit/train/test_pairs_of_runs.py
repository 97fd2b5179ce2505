"""Pairs of a finished run: its judged questions and hits, and its titles and headings where nobody asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stagerun

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.inline import make_stage, run_stage
from rag_hpc.stages import train as stage
from rag_hpc.stores.trained import Pair, read_pairs
from rag_hpc.train.pairs import mined_pairs


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture
def run(chain: stagerun.Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The folder of a run, whose outputs are those of the chain."""
    monkeypatch.setattr(stage, "run_outputs", lambda folder: dict(chain.out))
    return str(tmp_path / "of the run")


def made(folder: Path, **settings: Any) -> tuple[list[Pair], Any]:
    output = run_stage(make_stage("train.pairs", {"batch_size": 2, **settings}), {}, folder)
    return read_pairs(output), output


def test_judged_questions_learn_from_their_best_passages_and_from_hits_that_do_not_answer(
    chain: stagerun.Chain, run: str, tmp_path: Path
) -> None:
    pairs, output = made(tmp_path, run=run, labels="judged", negatives=2)
    asked = {row["query_id"]: row for row in chain.table("retrieve.queries", "queries.parquet")}
    chunks = chain.table("chunk", "chunks.parquet")
    owner = {(f"{row['heading']}\n{row['text']}" if row["heading"] else row["text"]): row["doc_id"] for row in chunks}
    assert pairs and output.extra()["mined"] > len(pairs) > 40
    for pair in pairs:
        relevant = {d for d, grade in json.loads(asked[pair.query_id]["relevant"]).items() if grade > 0}
        assert pair.query == asked[pair.query_id]["text"]
        assert owner[pair.positive] == pair.positive_id and pair.positive_id in relevant
        assert len(set(pair.negatives)) == 2 and not {owner[text] for text in pair.negatives} & relevant
    assert output.total("items_in") == output.total("items_out") + sum(output.dropped().values())


def test_titles_and_headings_ask_where_nobody_did(chain: stagerun.Chain, run: str, tmp_path: Path) -> None:
    pairs, _ = made(tmp_path, run=run)
    chunks = {row["chunk_id"]: row for row in chain.table("chunk", "chunks.parquet")}
    assert len({pair.query for pair in pairs}) == len({pair.query_id for pair in pairs}) == len(pairs) > 10
    for pair in pairs:
        chunk = chunks[pair.positive_id]
        assert chunk["text"].strip().endswith(pair.positive) and len(pair.query.split()) >= 2
        assert pair.query in (chunk["title"], (chunk["heading"] or "").replace(" > ", " "))
    assert not any(pair.negatives for pair in pairs)


def test_words_that_the_passage_begins_with_are_no_answer() -> None:
    table = {
        "chunk_id": ["a0", "a1", "b0"],
        "doc_id": ["a", "a", "b"],
        "title": ["Read a file", None, "Only a title"],
        "heading": ["", "Read a file > In one go", ""],
        "text": ["# Read a File\n\nOpen it first.", "## In one go\nCall read.", "# Only a title\n"],
    }
    pairs = list(mined_pairs(SimpleNamespace(column=table.__getitem__)))  # type: ignore[arg-type]
    assert [(p.query, p.positive) for p in pairs] == [
        ("Read a file", "Open it first."),
        ("Read a file In one go", "Call read."),
    ]


def test_a_run_that_has_not_come_far_enough_is_refused(
    chain: stagerun.Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "run_outputs", lambda folder: {"chunk": chain.out["chunk"]})
    with pytest.raises(ConfigError, match=r"the run has no questions; set train.labels=mined"):
        made(tmp_path / "judged", run="x", labels="judged")
    monkeypatch.setattr(stage, "mined_pairs", lambda chunks: [])
    with pytest.raises(InputError, match=r"no title or heading of x"):
        made(tmp_path / "mined", run="x")
