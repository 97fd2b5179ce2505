"""Two runs on the same queries: differences, their intervals, p, and what is held."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import fake_run
import numpy as np
import pytest

from rag_hpc import cli
from rag_hpc.errors import ConfigError
from rag_hpc.eval import compare, paired, quality
from rag_hpc.eval.results import Results


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run whose rankings are drawn otherwise than the baseline's."""
    return Results(fake_run.build(tmp_path_factory.mktemp("other"), fake_run.Shape(name="other", seed=31)))


@pytest.mark.parametrize(
    ("apart", "p"), [([1, 1, 1, 1], 2 / 16), ([1, -1, 1, 1], 10 / 16), ([0, 0, 0], 1.0), ([3, 1], 2 / 4), ([0.5], 1.0)]
)
def test_few_queries_have_the_exact_p(apart: list[float], p: float) -> None:
    assert paired.difference(apart, [0.0] * len(apart)).p == p


def test_p_by_dealing_signs_at_random_is_near_the_exact_one() -> None:
    apart = np.random.default_rng(3).normal(0.4, 1, paired.SURE)
    exact = paired.randomisation(apart)
    drawn = paired.randomisation(np.append(apart, 0.0))  # one more query without a difference changes nothing
    assert 0.01 < exact < 0.9 and drawn == pytest.approx(exact, abs=0.02)


def test_intervals_hold_the_truth_and_chance_is_not_found_guilty() -> None:
    rng, truth, num = np.random.default_rng(5), 0.03, 120
    held = wrong = 0
    for _ in range(num):
        before = rng.uniform(0, 1, 60)
        after = before + rng.normal(truth, 0.2, 60)
        found = paired.difference(after.tolist(), before.tolist())
        held += found.low <= truth <= found.high
        wrong += paired.randomisation(after - before - truth) < 0.05
    assert 0.88 <= held / num <= 0.99 and wrong / num <= 0.11


def test_holm_adjusts_each_p_by_those_that_are_larger() -> None:
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and paired.holm([0.7, 0.6]) == [1.0, 1.0]
    assert paired.holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.009, 0.02, "held"),
        (-0.01, 0.0, "held"),
        (-0.05, -0.011, "lost"),
        (-0.02, 0.01, "open"),
        (-0.02, -0.01, "open"),
    ],
)
def test_a_measure_is_held_or_lost_by_its_whole_interval(low: float, high: float, verdict: str) -> None:
    assert compare.verdict(low, high, 0.01) == verdict


def test_a_row_is_of_the_queries_that_are_judged_in_both(base: Results, other: Results) -> None:
    rows = compare.judged(base, [other], 0.01)
    parts = [{part.part: part for part in quality.measured(run)} for run in (base, other)]
    assert {row.method for row in rows} == {"bm25", "dense", "fused", "answers"}  # the baseline has no vector index
    for row in (row for row in rows if row.method != "answers"):
        theirs, mine = (part[row.method] for part in parts)
        assert row.reference == pytest.approx(theirs.means[row.measure], abs=1e-6)
        assert row.mean == pytest.approx(mine.means[row.measure], abs=1e-6)
        assert row.difference == pytest.approx(row.mean - row.reference, abs=1e-6) and row.num_queries == 8
        assert row.low <= row.difference <= row.high and row.p <= row.p_holm
        values = [[part[row.method].by_query[row.measure][q] for q in theirs.by_query[row.measure]] for part in parts]
        apart = np.subtract(values[1], values[0])
        dealt = [abs(np.dot(signs, apart)) for signs in itertools.product((1, -1), repeat=8)]
        assert row.p == pytest.approx(np.mean(np.array(dealt) >= abs(apart.sum()) - 1e-9))
    assert any(row.difference for row in rows)


def test_the_same_rankings_are_held(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "demo-baseline", "demo-cluster", f"cluster.root={root}"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("reference  demo-baseline\n") and "held: not worse by more than 1 point," in shown
    lines = [line for line in shown.splitlines() if line.startswith("demo-cluster")]
    assert lines and all(line.endswith("held") for line in lines)


def test_other_questions_under_the_same_ids_are_refused(
    base: Results, other: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = quality.questions(base)
    other_asked = [{**asked[0], "text": "Something else?"}, *asked[1:]]
    monkeypatch.setattr(quality, "questions", lambda run: other_asked if run is other else asked)
    with pytest.raises(ConfigError, match=f"ask other questions, for one under the id {asked[0]['query_id']}"):
        compare.judged(base, [other], 0.01)


def test_files_and_scripts_get_the_rows_that_people_read(
    root: Path, other: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(root / "demo-baseline"), str(other.run_dir), "method=fused", "margin=0.9"]
    assert cli.main([*words, "--json", f"--out={tmp_path / 'c.html'}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reference"] == "demo-baseline" and {row["method"] for row in told["rows"]} == {"fused"}
    assert cli.main([*words, "--csv", f"--out={tmp_path / 'c.csv'}"]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "c.csv").read_text() == text
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["difference"]) for row in rows] == [row["difference"] for row in told["rows"]]
    page = (tmp_path / "c.html").read_text()
    assert all(f"<td>{row['measure']}</td>" in page and f"{row['mean']:.4f}" in page for row in told["rows"])
    assert page.count("<script") == 1 and "script-src 'sha256-" in page and "http:" not in page
    assert f'data-v="{told["rows"][0]["mean"]}"' in page  # by which it is sorted


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("demo-baseline",), 2, "rag-hpc compare BASELINE RUN"),
        (("demo-baseline", "demo-cluster", "margin=2"), 2, "margin=2: a number from 0 to 1"),
        (("demo-baseline", "demo-cluster", "--out=c.pdf"), 2, "ends in .html or .csv"),
        (("demo-baseline", "demo-cluster", "--json", "--csv"), 2, "one of them at a time"),
        (("demo-baseline", "demo-cluster", "measure=speed"), 1, "the reference has: bm25 AP"),
    ],
)
def test_what_cannot_be_compared_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert cli.main(["compare", *words, f"cluster.root={root}"]) == code
    assert said in capsys.readouterr().err


def test_titles_as_queries_are_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        fake_run.build(tmp_path, fake_run.Shape(name=name, stand_ins=True, stages=fake_run.STAGES))
    assert cli.main(["compare", "a", "b", f"cluster.root={tmp_path}"]) == 0
    assert "bm25 (titles)" in capsys.readouterr().out
    assert cli.main(["compare", "a", "b", "--csv", f"cluster.root={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert said.out.count("titles that stand in for questions") == len(said.out.splitlines()) - 1
    assert said.err.startswith("a: the queries are titles")
