"""What a gateway keeps of questions and votes, and only where it is told to."""

from __future__ import annotations

import json
import time
from pathlib import Path

import fixedcorpus
import gateways
import pytest

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.serve.feedback import LOG
from rag_hpc.serve.gateway.kept import Kept
from rag_hpc.serve.gateway.places import Doors
from rag_hpc.serve.gateway.requests import Feedback
from rag_hpc.serve.log import read_log
from rag_hpc.serve.places import FOLDER

ASKED = fixedcorpus.ASKED["caching"]
pytestmark = pytest.mark.timeout(200)


def test_a_vote_on_a_gateway_s_answer_is_a_pair_to_train_on(
    gated: Ledger, modelled: Doors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gated.run_dir / FOLDER / LOG
    with gateways.owner(modelled) as http:
        told = http.post("/v1/query", json={"question": ASKED}).json()
        mine, best = told["request_id"], told["passages"][0]["chunk_id"]
        vote = {"request_id": mine, "rating": 1, "chunk_id": best, "comment": "so it is"}
        assert http.post("/v1/feedback", json=vote).status_code == 201
    end = time.monotonic() + 20
    while mine not in {row["request_id"] for row in read_log(folder, "votes")}:
        assert time.monotonic() < end, "in vain"
        time.sleep(0.1)
    (row,) = [row for row in read_log(folder, "queries") if row["request_id"] == mine]
    assert (row["question"], row["source"], row["tenant"]) == (ASKED, "computed", "")
    assert row["ms"] > 0 and row["generation"] and json.loads(row["chunk_ids"])[0] == best
    capsys.readouterr()
    assert main(["feedback", f"run={gated.run_dir}", "--out", str(tmp_path / "pairs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    assert best in (tmp_path / "pairs" / "qrels" / "train.tsv").read_text()


def test_what_cannot_be_kept_is_said_and_no_answer_s_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path, "g")
    kept.voted(Feedback(request_id="1", rating=1), "t")
    (tmp_path / FOLDER / LOG).rmdir()
    kept.close()
    assert "could not be kept" in caplog.text
    (tmp_path / FOLDER / LOG).mkdir()
    kept.close()
    assert [row["request_id"] for row in read_log(tmp_path / FOLDER / LOG, "votes")] == ["1"]
