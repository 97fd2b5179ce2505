"""What a gateway keeps of questions and votes, and only where it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import fixedcorpus
import gateways
import pytest

from rag_hpc.cli import main
from rag_hpc.core.ledger import Ledger
from rag_hpc.serve.feedback import LOG
from rag_hpc.serve.gateway.kept import Kept
from rag_hpc.serve.gateway.requests import Feedback
from rag_hpc.serve.log import read_log
from rag_hpc.serve.places import FOLDER

pytestmark = pytest.mark.timeout(200)


def test_votes_on_a_gateway_s_answers_are_pairs_to_train_on_and_its_questions_are_answered_before(
    gated: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = f"run={gated.run_dir}", gated.run_dir / FOLDER / LOG
    assert main(["feedback", run, "--out", str(tmp_path / "none")]) == 1
    assert "gateway.log=true" in capsys.readouterr().err and not folder.exists()
    with gateways.gateway(gated, "keeping", "gateway.log=true") as doors, gateways.owner(doors) as http:
        assert "rag-hpc feedback" in capsys.readouterr().out
        told = [http.post("/v1/query", json={"question": fixedcorpus.ASKED["caching"]}).json() for _ in range(2)]
        best = told[0]["passages"][0]["chunk_id"]
        vote = {"request_id": told[1]["request_id"], "rating": 1, "chunk_id": best, "comment": "so it is"}
        assert http.post("/v1/feedback", json=vote).status_code == 201
    rows = list(read_log(folder, "queries"))
    assert [(row["source"], row["question"]) for row in rows] == [
        (source, fixedcorpus.ASKED["caching"]) for source in ("computed", "memory")
    ]
    assert all(row["ms"] > 0 and row["generation"] for row in rows)
    capsys.readouterr()
    assert main(["feedback", run, "--out", str(tmp_path / "pairs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    assert best in (tmp_path / "pairs" / "qrels" / "train.tsv").read_text()
    assert main(["serve", "warm", run, f"cache.files={tmp_path / 'files'}"]) == 0
    assert ": 1 answers in " in capsys.readouterr().out


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
