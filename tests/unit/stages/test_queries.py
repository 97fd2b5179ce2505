"""retrieve.queries: the corpus's questions with their vectors, or known items where nobody wrote any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixedcorpus
import numpy as np
import pytest
import stagerun

from rag_hpc.core.unit import Unit
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.stages.registry import make_stage


def _queries(chain: stagerun.Chain, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    found = stagerun.run_stage(folder, "retrieve.queries", settings, chain.out)
    return stagerun.rows_of(found, "queries.parquet")


def test_questions_of_the_file_come_in_its_order_with_their_judgements(chain: stagerun.Chain) -> None:
    rows = chain.table("retrieve.queries", "queries.parquet")
    assert [row["query_id"] for row in rows] == [f"q{n}" for n in range(8)] + ["nobody"]
    assert json.loads(rows[1]["relevant"]) == {"d01": 2, **{f"d{n:02d}": 1 for n in range(9, 64, 8)}}
    assert json.loads(rows[0]["answers"]) == ["the maxlen argument", "a deque"]
    assert (rows[8]["answers"], rows[8]["relevant"], rows[8]["held_out"]) == ("[]", "{}", False)


def test_row_of_the_vectors_is_the_query(chain: stagerun.Chain) -> None:
    from rag_hpc.models.encoder import Encoder

    vectors = np.load(chain.out["retrieve.queries"].files("vectors.npy")[0])
    texts = [row["text"] for row in chain.table("retrieve.queries", "queries.parquet")]
    want = Encoder("minilm", threads=1).encode(texts[::-1])[::-1]
    assert vectors.dtype == np.float16 and vectors.shape == (9, 384)
    assert (vectors.astype(np.float32) * want).sum(1).min() > 0.999


def test_prefix_is_encoded_but_not_kept_as_text(chain: stagerun.Chain, tmp_path: Path) -> None:
    found = chain.again("retrieve.queries", tmp_path, prefix="query: ")
    assert stagerun.rows_of(found, "queries.parquet") == chain.table("retrieve.queries", "queries.parquet")
    ours, plain = (np.load(m.files("vectors.npy")[0]) for m in (found, chain.out["retrieve.queries"]))
    assert np.abs(ours.astype(np.float32) - plain.astype(np.float32)).max() > 0.01


def test_titles_ask_where_there_are_no_questions(front: stagerun.Chain, tmp_path: Path) -> None:
    rows = _queries(front, tmp_path, source="files", num_known_items=10)
    documents = {row["doc_id"]: row["title"] for row in front.table("dedup.drop", "documents.parquet")}
    assert [row["query_id"] for row in rows] == [f"known-{n:04d}" for n in range(10)]
    for row in rows:
        ((doc_id, grade),) = json.loads(row["relevant"]).items()
        assert documents[doc_id] == row["text"] and grade == 1
        assert row["stand_in"] and not row["held_out"]


def _asking(tmp_path: Path, *doc_ids: str) -> str:
    path = tmp_path / "asking.jsonl"
    path.write_text(json.dumps({"id": "1", "text": "Which?", "relevant": dict.fromkeys(doc_ids, 1), "held_out": True}))
    return str(path)


def test_relevant_ids_that_the_corpus_lacks_are_an_error_until_they_are_allowed(
    front: stagerun.Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _asking(tmp_path, "d01", "d02", "exact", "short", "nope")
    said = "of 5 documents that are judged relevant, the corpus lacks 1 and 2 were dropped; the first: 'nope'"
    with pytest.raises(InputError, match=rf"{said}.*stage.queries.max_absent=0.2"):
        _queries(front, tmp_path / "refused", questions=path)
    for number, allowed in enumerate(({"max_absent": 0.2}, {"max_pages": 90})):
        (row,) = _queries(front, tmp_path / str(number), questions=path, **allowed)
        absent = {"exact": "exact-duplicate", "nope": "not in the corpus", "short": "too-short"}
        assert json.loads(row["absent"]) == absent and row["held_out"] and not row["stand_in"]
    assert said in caplog.text


def test_relevant_ids_that_are_all_there_or_dropped_for_a_reason_stop_nobody(
    front: stagerun.Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = stagerun.run_stage(tmp_path / "a", "retrieve.queries", {"questions": _asking(tmp_path, "d01")}, front.out)
    assert (found.extra(), caplog.text) == ({"absent": 0, "relevant": 1, "stand_ins": 0}, "")
    found = stagerun.run_stage(tmp_path / "b", "retrieve.queries", {"questions": _asking(tmp_path, "bell")}, front.out)
    assert found.extra()["absent"] == 1 and "lacks 0 and 1 were dropped" in caplog.text


def test_beir_folder_brings_its_own_queries(front: stagerun.Chain, chain: stagerun.Chain, tmp_path: Path) -> None:
    path = fixedcorpus.write_beir(tmp_path / "beir")
    rows = _queries(front, tmp_path / "run", source="beir", path=str(path))
    theirs = chain.table("retrieve.queries", "queries.parquet")[:8]
    assert [(r["query_id"], r["text"], r["relevant"]) for r in rows] == [
        (r["query_id"], r["text"], r["relevant"]) for r in theirs
    ]


def test_questions_that_change_after_the_plan_fail_the_unit(front: stagerun.Chain, tmp_path: Path) -> None:
    path = fixedcorpus.write_questions(tmp_path / "q.jsonl")
    stage = make_stage("retrieve.queries", {"questions": str(path)})
    (unit,) = stage.plan(front.out, tmp_path)
    path.write_text('{"id": "other", "text": "another question"}\n')
    with pytest.raises(InputError, match=r"q.jsonl changed since the plan was made; run again"):
        stage.run(unit, tmp_path, stagerun.context(front.out, tmp_path))
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        stage.run(unit, tmp_path, stagerun.context(front.out, tmp_path))


def test_changed_questions_give_another_unit(front: stagerun.Chain, tmp_path: Path) -> None:
    path = fixedcorpus.write_questions(tmp_path / "q.jsonl")
    stage = make_stage("retrieve.queries", {"questions": str(path)})
    before: list[Unit] = stage.plan(front.out, tmp_path)
    assert stage.plan(front.out, tmp_path) == before
    path.write_text('{"id": "other", "text": "another question"}\n')
    assert stage.plan(front.out, tmp_path) != before


def test_corpus_without_titles_and_questions_says_what_to_set(front: stagerun.Chain, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.txt").write_text(fixedcorpus.prose("paths", 1, 5))
    crawl = {"source": "files", "path": str(tmp_path / "c")}
    chain = stagerun.Chain(tmp_path / "run", {"crawl": crawl}).run(*stagerun.TO_CHUNK[:-1])
    with pytest.raises(InputError, match=r"set corpus.questions"):
        _queries(chain, tmp_path / "run")
