"""Forecasts from pilots: units dealt out again, a band that grows with the distance, and the p for a deadline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest

from rag_hpc import cli
from rag_hpc.eval.bench.laws.forecast import held_rows
from rag_hpc.eval.dealt import Units, dealt_out
from rag_hpc.eval.forecast import predict
from rag_hpc.eval.results import Results
from rag_hpc.eval.times import stage_times


@pytest.fixture(scope="module")
def pilots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pilots")
    for p in (1, 2, 4, 8, 16):
        fake_run.build(root, fake_run.Shape(name=f"c-w{p}", p=p, overhead=0.02, stages=["crawl", "clean"]))
    return root


def call(root: Path, *words: str) -> int:
    return cli.main(["forecast", *words, f"cluster.root={root}"])


def test_units_go_to_who_is_free_own_stripe_first_then_others_from_the_far_end() -> None:
    assert dealt_out([4, 1, 1, 1], 1) == 7 and dealt_out([4, 1, 1, 1], 2) == 4 and dealt_out([1, 1, 1], 2) == 2
    assert dealt_out([3, 2], 8) == 3 and dealt_out([], 4) == 0
    assert dealt_out([3, 1, 1, 4], 2) == 5  # the second worker goes on with its own fourth unit, not with the third
    assert dealt_out([9, 1, 3, 1, 4, 1], 2) == 10  # and then with the fifth, before the third


def test_a_pilots_own_time_is_foretold(pilots: Path) -> None:
    run = Results(pilots / "c-w2")
    for time in stage_times(run):
        (row,) = [row for row in predict([run], [2]) if row.stage == time.stage]
        assert row.by == "units" and row.low < time.wall_s < row.high
        assert row.seconds == pytest.approx(time.wall_s, rel=0.1)


def test_two_runs_tell_how_much_slower_units_get_and_that_no_band_is_narrower_far_away() -> None:
    seconds = np.linspace(1, 2, 40)
    rows = [(seconds * p**0.3).tolist() for p in (1, 2)]
    units = Units.measured([1, 2], rows, [dealt_out(row, p) for row, p in zip(rows, (1, 2), strict=True)])
    assert units.slower == pytest.approx(0.3) and units.noise < 1e-6 and units.beyond == pytest.approx(1.0)
    told = [units.seconds_at(p) for p in (2, 8, 32)]
    assert told[1].value == pytest.approx(dealt_out((seconds * 8**0.3).tolist(), 8), rel=0.05)
    widths = [(one.high - one.low) / one.value for one in told]
    assert widths == sorted(widths)


def test_no_more_workers_are_counted_than_there_are_units() -> None:
    units = Units.measured([1], [[1.0, 1.0, 1.0]], [3.0])
    assert units.seconds_at(3).value == units.seconds_at(300).value > 1.0


def test_many_runs_are_foretold_by_their_law(pilots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(pilots, "c-w1", "c-w2", "c-w4", "c-w8", "c-w16", "p=32", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert {row["by"] for row in value["stages"]} <= {"linear", "Amdahl", "USL", "units"}
    assert any(row["by"] != "units" for row in value["stages"])


def test_the_fewest_workers_before_a_deadline_and_the_most_within_a_budget(
    pilots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def best(*words: str) -> tuple[int, int | None]:
        code = call(pilots, "c-w1", "p=1,2,4,8", "--json", *words)
        found: int | None = json.loads(capsys.readouterr().out)["best_p"]
        return code, found

    assert call(pilots, "c-w1", "p=1,2,4,8", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    totals = {int(p): t["high"] / 3600 for p, t in told["totals"].items()}
    beside = told["beside_s"]["4"] / 3600
    assert told["beside_s"]["4"] == pytest.approx(2 * 0.6)  # set-up of a worker in both stages
    assert best(f"deadline_h={totals[4] + beside}") == (0, 4) and best(f"deadline_h={totals[4]}") == (0, 8)
    assert best(f"worker_h={max(p * hours for p, hours in totals.items())}") == (0, 8)
    assert best("deadline_h=1e-9") == (1, None)


def test_workers_that_want_more_cores_than_their_machine_has_are_said_to_take_longer(
    pilots: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Results.records

    def records(self: Results, step: str) -> list[dict[str, Any]]:
        return [{**one, "hardware": {"machine": "m", "cores": 2}} for one in real(self, step)]

    monkeypatch.setattr(Results, "records", records)
    (time, _) = stage_times(Results(pilots / "c-w2"))
    rows = {row.p: row for row in predict([Results(pilots / "c-w2")], [1, 8]) if row.stage == "crawl"}
    assert rows[8].wants_cores == pytest.approx(8 * time.cpu_s / time.wall_s / 2) and rows[8].has_cores == 2
    assert rows[8].short_of_cores and not rows[1].short_of_cores
    assert call(pilots, "c-w2", "p=8") == 0
    assert f"at least: they want {rows[8].wants_cores:.1f} of 2 cores" in capsys.readouterr().out
    monkeypatch.setattr(Results, "records", lambda self, step: [{**one, "hardware": {}} for one in real(self, step)])
    assert predict([Results(pilots / "c-w2")], [8])[0].has_cores == 0  # records of before do not tell


def test_what_cannot_be_foretold_is_said(pilots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(pilots) == 2
    assert "name the pilot runs" in capsys.readouterr().err
    assert call(pilots, "c-w1", "p=0") == 2 and call(pilots, "c-w1", "deadline_h=soon") == 2


def test_the_band_holds_runs_that_follow_simulated_pilots() -> None:
    rows = held_rows({"pilots": "150"})
    assert 0.8 <= rows[0].ours <= 0.98
