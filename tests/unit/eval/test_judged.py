"""Scores of a judge: undetermined ones are no numbers, and agreement with people has an interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval.judged import agreement, scores_of


def line(number: int, score: float | None, reason: str = "", **more: Any) -> dict[str, Any]:
    reasons = {"faithfulness": reason} if reason else {}
    return {"query_id": f"q{number}", "scores": {"faithfulness": score}, "reasons": reasons, **more}


LINES = [line(0, 1.0), line(1, 0.5), line(2, None, "not-the-form"), line(3, None, "unanswered")]


def test_undetermined_scores_are_counted_and_never_averaged_away() -> None:
    found = scores_of("faithfulness", LINES)
    assert (found.values, found.num_undetermined, found.num_not_asked) == ({"q0": 1.0, "q1": 0.5}, 1, 1)
    assert (found.all_at(0), found.all_at(1)) == ([1.0, 0.5, 0], [1.0, 0.5, 1])


def test_kappa_is_what_chance_does_not_explain() -> None:
    # Cohen's own arithmetic: 20 + 15 of 50 agree, 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    lines = [line(n, float(said), labels={"faithfulness": label}) for n, (said, label) in enumerate(pairs)]
    found = agreement("faithfulness", [*lines, line(99, None, "refused", labels={"faithfulness": 1})])
    assert found is not None and found.kappa is not None
    assert found.accuracy[0] == pytest.approx(0.7) and found.kappa[0] == pytest.approx(0.4)
    assert found.kappa[1] < 0.4 < found.kappa[2] and 0.5 < found.accuracy[1] < 0.7 < found.accuracy[2]
    assert (found.num, found.num_undetermined) == (50, 1)


def test_where_all_are_alike_there_is_no_kappa_and_of_none_no_agreement() -> None:
    alike = [line(n, 1.0, labels={"faithfulness": 1}) for n in range(5)]
    found = agreement("faithfulness", alike)
    assert found is not None and found.kappa is None and found.accuracy == (1.0, 1.0, 1.0)
    assert agreement("faithfulness", [line(0, None, "refused", labels={"faithfulness": 1})]) is None


def test_metrics_shows_a_judge_s_scores_and_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="j", stages=[*fake_run.STAGES, "judge"], finish=len(fake_run.STAGES)))
    assert cli.main(["metrics", "j", "--json", f"cluster.root={tmp_path}"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["measure"]: row["mean"] for row in told["means"] if row["method"] == "judge m"}
    assert rows["faithfulness"] == 0.75
    assert rows["faithfulness, undetermined as 0"] == 0.5
    assert rows["faithfulness, undetermined as 1"] == pytest.approx(0.833333)
    assert any("the judge has finished 1 of 2 units" in note for note in told["notes"])
    assert any("1 of 3 scores of faithfulness are undetermined" in note for note in told["notes"])
    assert any("nothing tells whether the judge is right" in note for note in told["notes"])
