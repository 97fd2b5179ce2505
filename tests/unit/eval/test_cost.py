"""Costs, reckoned by hand: prices times what was used, and for one of each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import fake_run
import pytest
from fake_slurm import FakeSlurm

from rag_hpc import cli
from rag_hpc.eval import cost, quality
from rag_hpc.eval.results import Results
from rag_hpc.eval.usage import Usage

PRICES = ("cost.core_hour=0.36", "cost.gpu_hour=0", "cost.kwh=0.5", "cost.core_watts=10", "cost.pue=1.5")


def prices(**values: float) -> cost.Prices:
    return cost.Prices(source="a test", **values)  # type: ignore[arg-type]


def test_a_price_is_for_an_hour_or_a_kilowatt_hour() -> None:
    usage = Usage(
        cpu_s=1.0,
        core_s=7200.0,
        gpu_s=1800.0,
        node_s=3600.0,
        energy_j=7.2e6,
        energy_from="estimated",
        source="records",
    )
    every = prices(core_hour=0.01, gpu_hour=2.0, node_hour=0.5, kwh=0.3, pue=1.2)
    assert every.of(usage) == pytest.approx(2 * 0.01 + 0.5 * 2 + 0.5 + 2 * 1.2 * 0.3)


def test_one_of_each_divides_the_stages_that_it_needs(root: Path, run: Results) -> None:
    found = cost.priced(run, prices(core_hour=3600.0))  # one for a second: without a scheduler what was computed
    by_stage = {row.stage: row.cost for row in found.stages}
    computed = {step: sum(r["cpu_s"] for r in run.records(step)) for step in run.stages}
    assert by_stage["crawl"] == pytest.approx(computed["crawl"])
    assert by_stage["retrieve"] == pytest.approx(computed["retrieve.queries"] + computed["retrieve.search"])
    assert found.total == pytest.approx(sum(computed.values()))
    asking = by_stage["retrieve"] + by_stage["generate"]
    building = found.total - asking - by_stage["evaluate"]
    documents, queries = run.manifests["crawl"].total("items_out"), len(quality.questions(run))
    assert (found.num_documents, found.num_queries) == (documents, queries)
    assert found.per_1000_documents == pytest.approx(1000 * building / documents)
    assert found.per_query == pytest.approx(asking / queries)
    judged = [line["f1"] for line in quality.answer_lines(run) if line["f1"] is not None]
    correct = sum(f1 >= 0.5 for f1 in judged)
    assert (found.num_judged, found.num_correct) == (len(judged), correct) and correct
    assert found.per_correct_answer == pytest.approx(asking / queries * len(judged) / correct)
    strict = cost.priced(run, prices(core_hour=3600.0, correct_f1=1.0))
    assert strict.num_correct <= correct and (strict.per_correct_answer or 1e9) >= found.per_correct_answer


def test_costs_stand_beside_the_baselines_with_their_prices(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "demo-cluster", f"cluster.root={root}", *PRICES, "cost.source=a test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stage = {row["stage"]: row for row in told["run"]["stages"]}["encode"]
    seconds = stage["usage"]["core_s"]
    assert stage["usage"]["energy_from"] == "estimated" and stage["usage"]["source"] == "records"
    assert stage["cost"] == pytest.approx(seconds / 3600 * 0.36 + seconds * 10 * 1.5 / 3.6e6 * 0.5)
    assert told["prices"]["source"] == "a test" and told["baseline"]["run"] == "demo-baseline"
    assert cli.main(["cost", "demo-cluster", f"cluster.root={root}"]) == 0
    shown = capsys.readouterr().out
    assert "prices    example: examples that nobody charges" in shown and "per correct answer" in shown
    line = next(line for line in shown.splitlines() if line.startswith("encode "))
    ratio = told["run"]["total"] / told["baseline"]["total"]
    assert "1.04×" in line and f"{ratio:.2f}×" in next(row for row in shown.splitlines() if row.startswith("in all"))


def test_a_spreadsheet_gets_a_row_a_stage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "demo-cluster", f"cluster.root={root}", "--csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["stage"] for row in rows][:3] == ["crawl", "clean", "dedup"]
    assert {row["currency"] for row in rows} == {"EUR"} and float(rows[0]["cost"]) > 0


def test_a_users_own_prices_are_a_file(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cost").mkdir()
    (tmp_path / "cost/site.yaml").write_text("name: site\nsource: the site, 2026\ncurrency: CHF\nnode_hour: 36\n")
    words = ["cost", "demo-cluster", f"cluster.root={root}", "--config-dir", str(tmp_path), "cost=site"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "prices    site: the site, 2026" in shown and "CHF" in shown and "kWh" not in shown


def test_accounting_is_joined_where_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: FakeSlurm
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    run = Results(fake_run.build(tmp_path, fake_run.Shape(name="c", stages=["crawl"])))
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    slurm.says("sacct", "41_0|2026-11-30T10:00:00|1000|cpu=4,node=1|00:10:00||5000\n")
    (row,) = cost.priced(run, prices(core_hour=3.6)).stages
    assert (row.usage.core_s, row.usage.energy_j, row.usage.energy_from) == (4000.0, 5000.0, "measured (sacct)")
    assert row.cost == pytest.approx(4.0)
    slurm.says("sacct", "")
    forgotten = cost.priced(run, prices(core_hour=3.6))
    assert forgotten.stages[0].usage.source == "records" and "it has forgotten the jobs" in forgotten.notes[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cost.core_hour=-1",), "cost.core_hour=-1.0: a number of at least 0"),
        (("cost.pue=0.5",), "cost.pue=0.5: from 1"),
        (("cost.correct_f1=0",), "cost.correct_f1=0.0: above 0"),
        (("cost.source=",), "say where its prices are from"),
        (("cost.colour=red",), "colour"),
        (("cost=nothing",), "known: example"),
        (("--json", "--csv"), "one of them at a time"),
    ],
)
def test_prices_that_make_no_sense_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert cli.main(["cost", "demo-cluster", f"cluster.root={root}", *words]) == 2
    assert said in capsys.readouterr().err


def test_an_unfinished_run_costs_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run.build(tmp_path, fake_run.Shape(name="c", stages=["crawl", "clean"], finish=1))
    assert cli.main(["cost", "c", f"cluster.root={tmp_path}"]) == 3
    shown = capsys.readouterr().out
    assert "unfinished: clean; go on: rag-hpc retry" in shown and "no baseline beside the run" in shown
