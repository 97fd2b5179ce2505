"""Recall curves and sample answers."""

from __future__ import annotations

import json
from pathlib import Path

import fake_run
import pytest

from rag_hpc.eval import quality
from rag_hpc.eval.results import Results


def test_curves_agree_with_the_recall_that_evaluate_computed(run: Results) -> None:
    curves, metrics = quality.recall_curves(run), quality.metrics(run)
    assert list(curves) == ["bm25", "dense", "fused", "ann"]
    for method, points in curves.items():
        assert dict(points)[10] == pytest.approx(metrics[method]["R@10"], abs=1e-6)


def test_recall_never_falls_with_k(run: Results) -> None:
    for points in quality.recall_curves(run).values():
        values = [value for _, value in points]
        assert values == sorted(values)
        assert 0.0 <= values[0] <= values[-1] <= 1.0


def test_the_vector_index_s_curve_agrees_with_its_judged_recall(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(ann_flaws=2)))
    curve = dict(quality.ann_curve(run))
    assert quality.ann_recall(run) == ("recall@10", pytest.approx(curve[10], abs=1e-6))
    assert curve[3] == 1.0
    assert curve[5] < 1.0
    assert max(curve) <= 30


def test_exact_hits_of_a_sample_judge_the_index_and_draw_no_curve_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(ann_flaws=2)))
    assert quality.ann_judged(run).endswith("over 8 questions") and "dense" in quality.recall_curves(run)
    monkeypatch.setattr(quality, "all_exact", lambda found: False)
    assert list(quality.recall_curves(run)) == ["bm25", "fused", "ann"] and quality.ann_curve(run)


def test_a_baseline_has_no_curve_of_a_vector_index(base: Results) -> None:
    assert quality.ann_curve(base) == []
    assert quality.ann_recall(base) is None
    assert "ann" not in quality.recall_curves(base)


def test_held_out_questions_are_judged_apart(run: Results) -> None:
    held_out, others = quality.answer_f1(run, held_out=True), quality.answer_f1(run, held_out=False)
    assert held_out is not None
    assert others is not None
    assert (held_out[1], others[1]) == (2, 6)
    mean = (held_out[0] * 2 + others[0] * 6) / 8
    assert mean == pytest.approx(quality.metrics(run)["answers"]["f1"], abs=1e-6)


def test_samples_are_drawn_at_random_the_same_each_time_and_carry_their_passages(run: Results) -> None:
    found = quality.samples(run, 4)
    drawn = [sample.query_id for sample in found]
    assert drawn == sorted(drawn) == [sample.query_id for sample in quality.samples(run, 4)] and len(set(drawn)) == 4
    assert drawn not in ([f"pydoc-{i:03d}" for i in range(4)], [f"pydoc-{i:03d}" for i in range(0, 8, 2)])
    for sample in found:
        assert [cited.number for cited in sample.cited] == [1, 2, 4]
        assert sample.answer.split(" [1]")[0] in sample.cited[0].text
        assert all(cited.text and cited.title for cited in sample.cited)
    assert len(quality.samples(run, 99)) == 8


def test_a_citation_of_a_passage_that_was_not_given_has_no_text(run: Results) -> None:
    row = run.rows("generate", "answers.parquet")[0] | {"citations": '[{"citation": 9, "supported": false}]'}
    question = quality.questions(run)[0]
    sample = quality._sample(row, question, None, quality._Passages(run))
    assert [(cited.number, cited.text, cited.verdict) for cited in sample.cited] == [(9, "", "not supported")]


def test_a_passage_has_the_worst_verdict_of_its_citations_and_the_places_of_all_quotes(run: Results) -> None:
    checks = [
        {"citation": 2, "supported": True, "start": 40, "end": 50},
        {"citation": 1, "supported": True},
        {"citation": 2, "supported": False, "start": -1, "end": -1},
        {"citation": 4, "supported": True, "start": 7, "end": 9},
        {"citation": 4, "supported": True, "start": 2, "end": 5},
    ]
    row = run.rows("generate", "answers.parquet")[0] | {"citations": json.dumps(checks)}
    sample = quality._sample(row, quality.questions(run)[0], None, quality._Passages(run))
    assert [(cited.number, cited.verdict, cited.quotes) for cited in sample.cited] == [
        (1, "supported", []),
        (2, "not supported", [(40, 50)]),
        (4, "quoted", [(2, 5), (7, 9)]),
    ]


def test_an_unfinished_run_has_no_quality_yet(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=3)))
    assert quality.metrics(run) == {}
    assert quality.recall_curves(run) == {}
    assert quality.samples(run, 5) == []
    assert quality.answer_f1(run, held_out=True) is None


def test_measures_keep_the_order_they_were_asked_in(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"bm25": {"AP": 0.1, "R@10": 0.2, "nDCG@10": 0.3}, "ann": {"recall@10_vs_exact": 1.0}}
    assert quality.measure_names(run, found) == ["AP", "R@10", "nDCG@10"]
    monkeypatch.setitem(run.submission["settings"], "evaluate", {"measures": ["nDCG@10", "AP"]})
    assert quality.measure_names(run, found) == ["nDCG@10", "AP", "R@10"]
