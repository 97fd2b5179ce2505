"""`rag-hpc metrics`: means with intervals, for people, spreadsheets, papers and scripts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import fake_run
import numpy as np
import pytest

from rag_hpc import cli
from rag_hpc.eval import metrics, quality
from rag_hpc.eval.results import Results


def printed(capsys: pytest.CaptureFixture[str], root: Path, *words: str, code: int = 0) -> str:
    assert cli.main(["metrics", *words, f"cluster.root={root}"]) == code
    return capsys.readouterr().out if code == 0 else capsys.readouterr().err


def test_means_are_evaluate_s_and_lie_in_their_intervals(run: Results) -> None:
    rows = metrics.means(run)
    known = quality.metrics(run)
    assert [row.method for row in rows if row.measure == "nDCG@10"] == ["bm25", "dense", "fused", "ann"]
    assert {row.measure for row in rows if row.method == "answers"} == set(known["answers"])
    for row in rows:
        assert row.low is not None and row.high is not None and row.low - 1e-6 <= row.mean <= row.high + 1e-6, row
        if row.method in known:
            assert row.mean == known[row.method][row.measure] and row.num_queries == 8
    assert [(row.measure, row.num_queries) for row in rows if row.method == "answers, held out"] == [("f1", 2)]


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = metrics.interval(values.tolist())
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.002)
    assert metrics.interval([0.3]) == (0.3, 0.3)


def test_the_table_names_run_and_method_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, root, "demo-cluster").splitlines()
    assert lines[0] == "run  demo-cluster" and max(map(len, lines)) <= 80
    assert [sum(word in line for line in lines) for word in ("demo-cluster", "bm25", "nDCG@10")] == [1, 1, 4]


def test_csv_and_json_say_the_same_of_several_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(capsys, root, "demo-baseline", "demo-cluster", "--csv"))))
    told = json.loads(printed(capsys, root, "demo-baseline", "demo-cluster", "--json"))
    assert told["notes"] == []
    assert [(r["run"], r["method"], r["measure"], float(r["mean"])) for r in rows] == [
        (r["run"], r["method"], r["measure"], r["mean"]) for r in told["means"]
    ]
    assert {row["queries"] for row in rows} == {"questions"}


def test_latex_is_a_table_for_rankings_and_one_for_answers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, root, "demo-cluster", "--latex")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"demo-cluster & bm25 & " in text and r" & citation\_precision & " in text
    row = next(line for line in text.splitlines() if "& bm25 &" in line)
    assert row.count("&") == 5 and row.endswith(r"\\") and r"{\scriptsize [" in row


def test_titles_as_queries_are_labelled_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="t", stand_ins=True))
    label = "titles that stand in for questions"
    assert printed(capsys, tmp_path, "t").startswith(f"t: the queries are {label}")
    assert "bm25 (titles)" in printed(capsys, tmp_path, "t")
    assert cli.main(["metrics", "t", "--csv", f"cluster.root={tmp_path}"]) == 0
    assert capsys.readouterr().err.startswith(f"t: the queries are {label}")
    assert {row["queries"] for row in csv.DictReader(io.StringIO(printed(capsys, tmp_path, "t", "--csv")))} == {label}
    latex = printed(capsys, tmp_path, "t", "--latex")
    assert latex.startswith(f"% t: the queries are {label}") and "& bm25 (titles) &" in latex


def test_one_form_at_a_time_and_only_of_a_run_that_is_evaluated(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--csv and --latex: one of them" in printed(capsys, root, "demo-cluster", "--csv", "--latex", code=2)
    fake_run.build(tmp_path, fake_run.Shape(finish=5))
    fake_run.build(tmp_path, fake_run.Shape(name="short", stages=["crawl", "clean"]))
    assert "short: its pipeline has no evaluate" in printed(capsys, tmp_path, "short", code=1)
    assert "evaluate is not finished; go on: rag-hpc retry" in printed(capsys, tmp_path, "demo-cluster", code=3)
