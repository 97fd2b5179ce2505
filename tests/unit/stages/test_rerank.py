"""rerank: a cross-encoder's order of the fused list's head, the same each time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fixedcorpus
import pytest
import stagerun

from rag_hpc.errors import ConfigError
from rag_hpc.models.encoder import Reranker
from rag_hpc.models.folder import tokenizer_file
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.passages import ranked

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random cross-encoder of 16 dimensions with MiniLM's tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross")
    shutil.copy(tokenizer_file("minilm"), folder / "tokenizer.json")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        intermediate_size=32,
        max_position_embeddings=256,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reranked(chain: stagerun.Chain, model: str, tmp_path_factory: pytest.TempPathFactory) -> stagerun.Chain:
    folder = tmp_path_factory.mktemp("reranked")
    found = chain.fork(folder, tuple(n for n in stagerun.STAGES if n not in ("generate", "evaluate")))
    found.settings = {**chain.settings, "rerank": {"model": model, "depth": 8}}
    return found.run("rerank", p=3, seed=2).run("generate", "evaluate")


def _order(chain: stagerun.Chain, stage: str, method: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in chain.table(stage, "hits.parquet"):
        if row["method"] == method:
            found.setdefault(row["query_id"], []).append(row)
    return found


def test_head_of_the_list_gets_another_order(chain: stagerun.Chain, reranked: stagerun.Chain) -> None:
    before, after = _order(chain, "retrieve.search", "fused"), _order(reranked, "rerank", "reranked")
    assert list(after) == list(before)
    moved = 0
    for query_id, rows in after.items():
        head = before[query_id][:8]
        assert sorted(r["ordinal"] for r in rows) == sorted(r["ordinal"] for r in head)
        assert [r["rank"] for r in rows] == list(range(1, 9))
        keys = [(-r["score"], r["ordinal"]) for r in rows]
        assert keys == sorted(keys)
        moved += [r["ordinal"] for r in rows] != [r["ordinal"] for r in head]
    assert moved > 4


def test_head_is_that_of_the_ranking_that_was_chosen(reranked: stagerun.Chain, tmp_path: Path) -> None:
    other = reranked.fork(tmp_path, tuple(n for n in reranked.out if n not in ("retrieve.search", "rerank")))
    other.out["retrieve.search"] = reranked.again("retrieve.search", tmp_path, method="bm25")
    other.settings = reranked.settings
    before = _order(other, "retrieve.search", "bm25")  # which has no hit for one question
    for query_id, rows in _order(other.run("rerank"), "rerank", "reranked").items():
        assert {row["ordinal"] for row in rows} == {row["ordinal"] for row in before[query_id][:8]}


def test_scores_are_the_model_s_for_question_and_passage(reranked: stagerun.Chain, model: str) -> None:
    rows = _order(reranked, "rerank", "reranked")["q2"]
    chunks = reranked.table("chunk", "chunks.parquet")
    pairs = [(fixedcorpus.ASKED["caching"], chunks[row["ordinal"]]["text"]) for row in rows]
    want = Reranker(model, threads=1).score(pairs)
    assert [r["score"] for r in rows] == pytest.approx(want.tolist(), abs=1e-5)
    assert [r["chunk_id"] for r in rows] == [chunks[r["ordinal"]]["chunk_id"] for r in rows]


def test_workers_and_order_do_not_change_it(reranked: stagerun.Chain, tmp_path: Path) -> None:
    again = reranked.again("rerank", tmp_path)
    assert again.output_hash == reranked.out["rerank"].output_hash and len(again.units) == 3


def test_answers_and_measures_follow_the_new_order(chain: stagerun.Chain, reranked: stagerun.Chain) -> None:
    tops = {q: [r["doc_id"] for r in rows[:3]] for q, rows in _order(reranked, "rerank", "reranked").items()}
    import json

    answers = reranked.table("generate", "answers.parquet")
    assert {row["query_id"]: json.loads(row["doc_ids"]) for row in answers} == tops
    parts = [json.loads(p.read_bytes())["part"] for p in reranked.out["evaluate"].files("metrics.json")]
    assert parts == ["answers", "bm25", "dense", "fused", "reranked", "ann"]


def test_block_that_was_not_reranked_keeps_the_fused_order(reranked: stagerun.Chain, tmp_path: Path) -> None:
    broken = reranked.fork(tmp_path, tuple(n for n in reranked.out if n not in ("generate", "evaluate")))
    broken.out["rerank"] = reranked.again("rerank", tmp_path, fail=[1])
    broken.run("generate")
    assert broken.out["generate"].total("items_in") == 9
    for position in range(3):
        part = "fused" if position == 1 else "reranked"
        stage = "retrieve.search" if position == 1 else "rerank"
        for asked in ranked(broken.out, position, 3):
            want = [row["ordinal"] for row in _order(reranked, stage, part)[asked.query_id][:3]]
            assert asked.ordinals == want


def test_stage_without_a_model_says_what_to_set(chain: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set stage.rerank.model=FOLDER"):
        make_stage("rerank", {}).plan(chain.out, tmp_path)
