"""What was asked and voted on is kept in segments, and becomes pairs to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import stagerun

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.errors import ConfigError
from rag_hpc.serve.feedback import LOG, judged
from rag_hpc.serve.log import QueryLog, forget, frequent, read_log
from rag_hpc.serve.places import FOLDER
from rag_hpc.sources.files.beir import load_beir_questions, load_beir_texts


def _found(question: str, *chunk_ids: str, cited: int = 1, found: bool = True) -> dict[str, Any]:
    passages = [{"chunk_id": one, "cited": n < cited} for n, one in enumerate(chunk_ids)]
    return {"question": question, "answer": "An answer.", "found": found, "passages": passages}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_rows_come_back_in_the_order_of_their_times_from_any_number_of_writers(tmp_path: Path) -> None:
    clock = Clock()
    logs = [QueryLog(tmp_path / "log", most_rows=3, clock=clock) for _ in range(2)]
    for number in range(8):
        logs[number % 2].asked(f"r{number}", "t", "g", _found("Q \udcff?", "a", "b"), source="memory", ms=1.5)
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 2  # of three rows each
    for one in logs:
        one.close()
    rows = list(read_log(tmp_path / "log", "queries"))
    assert [row["request_id"] for row in rows] == [f"r{n}" for n in range(8)]
    assert json.loads(rows[0]["chunk_ids"]) == ["a", "b"] and json.loads(rows[0]["cited"]) == ["a"]
    assert rows[0]["question"] == "Q \\udcff?" and (rows[0]["source"], rows[0]["ms"]) == ("memory", 1.5)
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "log").iterdir())


def test_a_row_waits_only_so_long_for_others(tmp_path: Path) -> None:
    log = QueryLog(tmp_path, most_s=2, clock=Clock())
    log.voted("r1", "t", 1)
    assert list(read_log(tmp_path, "votes")) == []
    log.asked("r2", "t", "g", _found("Q?"))
    log.asked("r3", "t", "g", _found("Q?"))
    assert [row["request_id"] for row in read_log(tmp_path, "votes")] == ["r1"]


def test_old_segments_are_forgotten_whole(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(3):
        log = QueryLog(tmp_path, clock=clock)
        log.voted("r", "t", 1, comment="x" * 9000)
        log.close()
    assert forget(tmp_path, before=1002.5) == 2
    (row,) = read_log(tmp_path, "votes")
    assert row["time"] == 1003 and len(row["comment"]) == 2000


def test_a_vote_is_for_or_against(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vote=0"):
        QueryLog(tmp_path).voted("r", "t", 0)


def test_frequent_questions_are_the_tenant_s_that_had_an_answer(tmp_path: Path) -> None:
    log = QueryLog(tmp_path)
    for question, tenant, found in [("a", "t", True), ("b ", "t", True), ("b", "t", True)] + [("c", "t", False)] * 3:
        log.asked("r", tenant, "g", _found(question, found=found))
    log.asked("r", "other", "g", _found("d"))
    log.close()
    assert frequent(list(read_log(tmp_path, "queries")), "t", 5) == ["b", "a"]


def _query(request_id: str, question: str, *chunk_ids: str, cited: int = 1, tenant: str = "t") -> dict[str, Any]:
    read = json.dumps(chunk_ids)
    told = json.dumps(chunk_ids[:cited])
    return {"request_id": request_id, "tenant": tenant, "question": question, "chunk_ids": read, "cited": told}


def _vote(request_id: str, vote: int, chunk_id: str = "", tenant: str = "t") -> dict[str, Any]:
    return {"request_id": request_id, "tenant": tenant, "chunk_id": chunk_id, "vote": vote}


def test_votes_become_grades() -> None:
    queries = [_query("1", "Who?", "a", "b", "c", cited=2), _query("2", " Who? ", "a"), _query("3", "What?", "d")]
    votes = [_vote("1", -1, "b"), _vote("1", -1), _vote("1", 1), _vote("2", 1), _vote("3", -1)]
    grades, counts = judged(queries, votes)
    assert grades == {"Who?": {"a": 1, "b": 0}, "What?": {"d": 0}}
    assert counts == {"questions": 2, "votes": 5, "even": 0}


def test_votes_that_are_nobody_s_are_counted_and_not_used() -> None:
    queries = [_query("1", "Who?", "a"), _query("2", "Who?", "a")]
    votes = [_vote("1", 1, tenant="other"), _vote("9", 1), _vote("1", 1, "elsewhere"), _vote("1", 1), _vote("2", -1)]
    grades, counts = judged(queries, votes)
    assert grades == {} and counts["even"] == 1
    assert (counts["votes_of_no_request"], counts["votes_of_no_passage"]) == (2, 1)


def test_a_run_s_votes_are_a_beir_folder_that_training_reads(
    run: Ledger, chain: stagerun.Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.run_dir.parents[2]
    monkeypatch.chdir(folder)
    assert main(["feedback", "demo", "--out", "pairs"]) == 1
    assert "no question was kept yet" in (said := capsys.readouterr().err) and "gateway.log=true" in said
    chunks = chain.table("chunk", "chunks.parquet")
    ids = [row["chunk_id"] for row in chunks]
    log = QueryLog(run.run_dir / FOLDER / LOG)
    for number in range(12):
        log.asked(str(number), "t", "g", _found(f"Question {number}?", *ids[number : number + 3], "gone", cited=2))
        log.voted(str(number), "t", 1)
        log.voted(str(number), "t", -1, chunk_id=ids[number + 1])
    log.voted("0", "t", 1, chunk_id="gone")
    log.close()
    assert main(["feedback", "demo", "--out", "pairs", "test_share=0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"] == 12 and told["passages_gone"] == 1 and told["votes"] == 25
    both = [load_beir_questions(folder / "pairs", split) for split in ("train", "test")]
    assert min(map(len, both)) > 0
    questions = {question["text"]: question["relevant"] for split in both for question in split}
    assert questions["Question 3?"] == {ids[3]: 1, ids[4]: 0} and len(questions) == 12
    texts = load_beir_texts(folder / "pairs", set(ids))
    assert texts[ids[3]].endswith(chunks[3]["text"])
    assert main(["feedback", "demo", "--out", "pairs"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["feedback", "demo"]) == 2
