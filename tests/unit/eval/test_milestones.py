"""Predictions against results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_corpus
import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval import quality
from rag_hpc.eval.cost import Prices, of_records
from rag_hpc.eval.milestones import judge, lost_items
from rag_hpc.eval.results import Results
from rag_hpc.eval.text import share
from rag_hpc.eval.verdicts import Milestone, kept


def by_name(run: Results, base: Results | None) -> dict[str, Milestone]:
    return {row.name: row for row in judge(run, base)}


def call(root: Path, *words: str) -> int:
    return cli.main(["milestones", *words, f"cluster.root={root}"])


def test_a_run_that_keeps_its_promises_exits_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-cluster") == 0
    printed = capsys.readouterr().out
    assert "baseline  demo-baseline" in printed
    assert "0 missed" in printed


def test_rows_carry_prediction_result_and_verdict(run: Results, base: Results) -> None:
    found = by_name(run, base)
    assert found["same output as the baseline"].result == "13 of 13 same"
    assert found["counts add up"].verdict == "hit"
    assert (found["duplicates found"].value, found["duplicates found"].bound) == (3, 3)
    assert found["vector index, recall@10"].predicted == ">= 0.9800"
    assert found["answer F1, 2 held-out questions"].verdict == "hit"
    assert found["citation precision"].verdict == "not judged"
    assert found["T(2) of dedup"].verdict == "not judged"


def test_the_ranking_that_was_handed_on_is_judged_and_the_others_stand_beside_it(run: Results, base: Results) -> None:
    row = by_name(run, base)["nDCG@10, fused (handed on)"]
    scores = {method: values["nDCG@10"] for method, values in quality.metrics(run).items() if method != "answers"}
    assert (row.value, row.verdict) == (scores.pop("fused"), "not judged")
    assert row.note == "beside it " + ", ".join(f"{method} {share(score)}" for method, score in scores.items())


def test_efficiency_is_judged_with_queue_setup_and_contention_beside_it(run: Results, base: Results) -> None:
    row = by_name(run, base)["E(2) of encode"]
    assert row.verdict == "hit"
    assert row.value == pytest.approx(1 / 1.04, rel=1e-3)
    for part in ("S = 1.92", "queue 12.5 s", "setup 4.10 s", "CPU pressure 4 % and 4 %"):
        assert part in row.note


def test_a_machine_that_was_shared_gives_no_verdict_on_speed(tmp_path: Path, base: Results) -> None:
    predicted = {"min_efficiency_crawl": 0.99, "min_efficiency_encode": 0.1}
    run = Results(fake_run.build(tmp_path, fake_run.Shape(pressure=20.5, milestones=predicted)))
    for stage in ("crawl", "encode"):
        row = by_name(run, base)[f"E(2) of {stage}"]
        assert row.verdict == "not judged" and row.note.startswith("the machine was shared; S = 1.92")
        assert row.note.endswith("CPU pressure 4 % and 20 %")
    run = Results(fake_run.build(tmp_path / "calm", fake_run.Shape(pressure=20.0, milestones=predicted)))
    assert by_name(run, base)["E(2) of crawl"].verdict == "missed"


def test_a_baseline_of_other_documents_gives_no_verdict_on_speed(tmp_path: Path, run: Results) -> None:
    other = Results(fake_run.build(tmp_path, fake_run.baseline(first_page=7)))
    found = by_name(run, other)
    assert found["E of crawl"].note == "the baseline has other documents or questions"
    assert found["same output as the baseline"].note.startswith("differs: crawl")


def test_titles_that_stand_in_and_lost_judgements_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(stand_ins=True, absent={fake_corpus.documents()[0]["doc_id"]: "too-short"}))
    assert call(tmp_path, "demo-cluster", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    titles, lost = told["notes"]
    [ranking] = [row for row in told["milestones"] if row["name"].startswith("nDCG@10")]
    assert (ranking["result"], ranking["verdict"]) == ("–", "not judged")
    assert "the queries are titles that stand in for questions" in titles and "not how good it is" in titles
    assert lost == "demo-cluster: 1 of 8 documents judged relevant cannot be found (too-short 1)"
    assert call(tmp_path, "demo-cluster") == 0
    assert f"\n{titles}\n{lost}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "bound", "name"),
    [
        ("min_recall_at_10", 1.01, "vector index, recall@10"),
        ("min_duplicates", 4, "duplicates found"),
        ("min_ndcg_at_10", 1.01, "nDCG@10, fused (handed on)"),
        ("min_answer_f1", 0.99, "answer F1, all questions"),
        ("min_efficiency_crawl", 0.99, "E(2) of crawl"),
    ],
)
def test_a_prediction_that_is_not_reached_is_missed(
    run: Results, base: Results, monkeypatch: pytest.MonkeyPatch, key: str, bound: float, name: str
) -> None:
    monkeypatch.setitem(run.config["milestones"], key, bound)
    assert by_name(run, base)[name].verdict == "missed"


def test_one_miss_makes_the_exit_code_1(tmp_path: Path, base: Results, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(milestones={"min_duplicates": 1000}))
    assert call(tmp_path, "demo-cluster", "--baseline", str(base.run_dir)) == 1
    assert "1 missed" in capsys.readouterr().out


def test_without_a_baseline_identity_and_speed_are_not_judged(run: Results) -> None:
    found = by_name(run, None)
    assert found["same output as the baseline"].verdict == "not judged"
    assert found["E of crawl"].verdict == "not judged"
    assert found["E of crawl"].predicted == ">= 0.900"


def test_other_rankings_than_the_baseline_s_are_a_miss(tmp_path: Path, base: Results) -> None:
    row = by_name(Results(fake_run.build(tmp_path, fake_run.Shape(seed=8))), base)["same output as the baseline"]
    assert row.verdict == "missed"
    assert row.note == "differs: retrieve.search, generate, evaluate"


def test_pages_lost_between_two_stages_are_found(tmp_path: Path) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(dropped_in_silence=2)))
    assert lost_items(run) == [
        "clean: took in 22 of 24",
        "dedup.sign: took in 24 of 22",
        "dedup.drop: took in 24 of 22",
    ]
    assert by_name(run, None)["counts add up"].verdict == "missed"


def test_quarantined_units_do_not_add_up(run: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.manifests["encode"], "quarantined", [3])
    assert lost_items(run) == ["encode: 1 units quarantined"]


def test_an_unfinished_run_without_a_miss_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(finish=4))
    assert call(tmp_path, "demo-cluster") == 3
    assert "unfinished: dedup.verify" in capsys.readouterr().out


def test_json_holds_values_and_bounds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-cluster", "--json") == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in value["milestones"]}
    assert value["baseline"] == "demo-baseline"
    assert rows["E(2) of crawl"]["bound"] == 0.9
    assert rows["E(2) of crawl"]["value"] > 0.9


def test_two_rounds_of_a_crawl_are_counted_together(run: Results) -> None:
    rounds = dict.fromkeys(("crawl", "crawl.2"), run.manifests["crawl"])
    taken = run.manifests["clean"]
    twice = dataclasses.replace(taken, units=[*taken.units, *taken.units])
    honest = SimpleNamespace(manifests={**rounds, "clean": twice})
    assert lost_items(honest) == []
    lossy = SimpleNamespace(manifests={**rounds, "clean": taken})
    num = taken.total("items_in")
    assert lost_items(lossy) == [f"clean: took in {num} of {2 * num}"]


PLAN = {"min_memory_ratio": 1.0, "max_recall_loss": 0.01, "max_f1_loss": 0.01, "min_speedup": 1.5}


def test_the_plan_is_held_against_the_baseline(tmp_path: Path, base: Results) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(milestones=PLAN)))
    found = by_name(run, base)
    whole = found["S, end to end"]
    assert whole.verdict == "hit" and whole.value == pytest.approx(2 / 1.04, rel=0.05) and "p = 2" in whole.note
    recall = found["R@10, fused, against the baseline"]
    assert (recall.value, recall.low, recall.high, recall.verdict) == (0, 0, 0, "hit")
    assert found["answer F1, against the baseline"].verdict == "hit"
    assert found["vectors, in nodes' memories"].note == "cluster.mem_gib does not say what a node has"
    run.config["cluster"] = {"mem_gib": 1e-7}
    assert by_name(run, base)["vectors, in nodes' memories"].verdict == "hit"
    assert by_name(run, None)["S, end to end"].note == "needs a finished baseline and run"


def test_a_speedup_at_other_answers_counts_for_nothing(tmp_path: Path, base: Results) -> None:
    other = Results(fake_run.build(tmp_path, fake_run.Shape(milestones=PLAN, dropped_in_silence=1)))
    row = by_name(other, base)["S, end to end"]
    assert (row.verdict, row.note) == ("not judged", "the output is not the baseline's")


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [((0.0, -0.01, 0.02), "hit"), ((-0.03, -0.05, -0.02), "missed"), ((0, -0.02, 0.01), "not judged")],
)
def test_a_loss_is_judged_by_its_whole_interval(gain: tuple[float, float, float], verdict: str) -> None:
    assert kept("recall", gain, 0.01).verdict == verdict


def test_a_miss_warns_those_after_it_and_strict_takes_their_verdict(run: Results, base: Results) -> None:
    run.config["milestones"] = {"min_duplicates": 4, "min_efficiency_encode": 0.5}
    row = by_name(run, base)["E(2) of encode"]
    assert row.verdict == "hit" and row.note.endswith("after duplicates found, which was missed")
    run.config["milestones"]["strict"] = True
    assert by_name(run, base)["E(2) of encode"].verdict == "not judged"


def test_the_stage_that_binds_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-cluster") == 0
    said = capsys.readouterr().out
    assert "encode is 56 % of the run's time: scale that first; below 10 % each, nothing to gain: clean, " in said


def test_costs_are_judged_at_the_prices_that_are_given(tmp_path: Path, base: Results) -> None:
    predicted = {"max_cost_per_query": 0.0, "max_cost_per_1000_documents": 1e9, "max_cost_ratio": 1.0}
    run = Results(fake_run.build(tmp_path, fake_run.Shape(milestones=predicted)))
    prices = Prices(name="site", source="a test", core_hour=1.0)
    found = {row.name: row for row in judge(run, base, prices)}
    assert (found["cost of a query"].verdict, found["cost of 1,000 documents"].verdict) == ("missed", "hit")
    told = of_records(run, prices)
    assert found["cost of a query"].value == told.per_query and found["cost of a query"].predicted == "<= 0 EUR"
    correct = found["cost of a correct answer"]
    assert (correct.value, correct.verdict) == (told.per_correct_answer, "not judged")
    assert correct.note.startswith("prices site; the baseline's ") and "most of all: encode" in correct.note
    ratio = found["cost in all, of the baseline's"]
    assert ratio.value == told.total / of_records(base, prices).total and ratio.verdict == "missed"
    unpriced = by_name(run, base)
    assert unpriced["cost of a query"].note.startswith("no prices here") and "cost of a correct answer" not in unpriced


def test_the_verb_takes_prices(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "demo-cluster", "cost.core_hour=3600", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["milestones"]}
    assert rows["cost of a query"]["value"] > 1 and "EUR" in rows["cost of a query"]["result"]
