"""A run's files for TREC's and BEIR's tools come back as what they were."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import pytest

from rag_hpc import cli
from rag_hpc.eval import quality
from rag_hpc.eval.results import Results
from rag_hpc.sources.files.beir import load_beir_questions


def test_written_files_give_the_run_s_own_measures(
    run: Results, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "files"
    assert cli.main(["metrics", "demo-cluster", f"cluster.root={root}", "--out", str(out)]) == 0
    assert "bm25.trec" in capsys.readouterr().out
    qrels = list(ir_measures.read_trec_qrels(str(out / "qrels.txt")))
    ranking = list(ir_measures.read_trec_run(str(out / "bm25.trec")))
    found = ir_measures.calc_aggregate([ir_measures.parse_measure("R@10")], qrels, ranking)
    assert next(iter(found.values())) == pytest.approx(quality.metrics(run)["bm25"]["R@10"], abs=1e-6)
    asked = load_beir_questions(out)
    judged = [q for q in quality.questions(run) if json.loads(q["relevant"])]
    assert [(q["id"], q["relevant"], q["answers"]) for q in asked] == [
        (q["query_id"], json.loads(q["relevant"]), json.loads(q["answers"])) for q in judged
    ]
    assert cli.main(["metrics", "demo-cluster", f"cluster.root={root}", "--out", str(out)]) == 1
    assert "is there already; name a new folder" in capsys.readouterr().err
