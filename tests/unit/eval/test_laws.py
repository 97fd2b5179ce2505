"""Laws of scaling: golden arithmetic, fits that find the truth or refuse, and the verb that needs no run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_hpc import cli
from rag_hpc.eval import laws
from rag_hpc.eval.bench.laws import laws as bench

SHARES = st.floats(0.001, 0.9)


def times(ps: list[int], serial: float, crosstalk: float = 0.0, repeats: int = 3) -> dict[int, list[float]]:
    rng = np.random.default_rng(3)
    return {p: (100 / laws.usl(serial, crosstalk, p) * (1 + rng.normal(0, 0.01, repeats))).tolist() for p in ps}


def test_amdahl_by_hand() -> None:
    assert [round(laws.amdahl(0.08, p), 2) for p in (16, 64)] == [7.27, 10.6]
    assert laws.most_workers(0.08, 0.7) == 6 and laws.most_workers(0.0, 0.7) is None
    assert laws.gustafson(0.08, 16) == pytest.approx(14.8)


@given(SHARES, st.integers(2, 1000))
def test_karp_and_flatt_undo_amdahl(serial: float, p: int) -> None:
    assert laws.karp_flatt(laws.amdahl(serial, p), p) == pytest.approx(serial, abs=1e-6)
    assert laws.karp_flatt(1.0, 1) is None


@given(SHARES, st.floats(0.05, 0.99))
def test_no_p_beyond_the_largest_has_the_efficiency(serial: float, efficiency: float) -> None:
    most = laws.most_workers(serial, efficiency)
    assert most is not None and laws.amdahl(serial, most + 1) / (most + 1) < efficiency + 1e-6
    assert most == 1 or laws.amdahl(serial, most) / most >= efficiency - 1e-6


@pytest.mark.parametrize(("crosstalk", "law"), [(0.0, "Amdahl"), (0.004, "USL")])
def test_the_law_behind_the_times_is_found_with_its_shares(crosstalk: float, law: str) -> None:
    found = laws.fit(times([1, 2, 4, 8, 16], 0.05, crosstalk))
    assert found.fit and found.fit.law == law and not found.refused
    assert found.fit.serial and found.fit.serial.low < 0.05 < found.fit.serial.high
    assert (found.fit.crosstalk is None) == (crosstalk == 0)
    ahead = found.fit.seconds(64)
    assert ahead.low < 100 / laws.usl(0.05, crosstalk, 64) < ahead.high


def test_too_few_p_are_refused_and_the_reason_counts_them() -> None:
    found = laws.fit(times([1, 2, 4], 0.05))
    assert found.fit is None and found.refused == "3 distinct p: Amdahl needs 4, USL needs 5"
    four = laws.fit(times([1, 2, 4, 8], 0.05))
    assert four.fit and four.fit.law == "Amdahl" and four.refused == "4 distinct p: USL needs 5"
    assert laws.fit({}).fit is None


def test_times_that_fall_faster_than_one_over_p_follow_no_law_with_a_negative_share() -> None:
    superlinear = {p: [100 / p**1.3, 101 / p**1.3] for p in (1, 2, 4, 8, 16)}
    found = laws.fit(superlinear)
    assert found.fit is None or found.fit.law == "linear"
    assert any(one.serial and one.serial.value < 0 for one in found.others)


def test_equal_times_without_noise_are_no_error() -> None:
    found = laws.fit({p: [100 / laws.amdahl(0.1, p)] * 2 for p in (1, 2, 4, 8)})
    assert found.fit and found.fit.serial and found.fit.serial.value == pytest.approx(0.1)


def test_the_verb_prints_limit_and_largest_p(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amdahl", "serial=0.08", "p=16,64"]) == 0
    shown = capsys.readouterr().out
    assert "limit of S for any p: 12.5" in shown and "largest p with E >= 0.7: 6" in shown
    assert cli.main(["amdahl", "serial=0.08", "p=16,64", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [round(row["speedup"], 2) for row in value["points"]] == [7.27, 10.6] and value["most_workers"] == 6


def test_a_target_beyond_the_limit_is_unphysical(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amdahl", "serial=0.02", "target=60"]) == 1
    assert "shrink the serial share from 0.02 to below 0.0167" in capsys.readouterr().out
    assert cli.main(["amdahl", "serial=0.02", "target=20"]) == 0
    assert "S = 20 needs p = 33" in capsys.readouterr().out
    assert laws.amdahl(0.02, 33) >= 20 > laws.amdahl(0.02, 32)


@pytest.mark.parametrize("words", [[], ["serial=2"], ["serial=a"], ["serial=0.1", "p=0"], ["serial=0.1", "target=0"]])
def test_wrong_numbers_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amdahl", *words]) == 2
    assert "is needed" in capsys.readouterr().err


def test_the_bench_finds_intervals_honest_on_runs_whose_law_is_known() -> None:
    rows = {row.name: row for row in bench.run({"runs": "120"})}
    assert 0.88 <= rows["laws.held.serial"].ours <= 1.0 and rows["laws.right"].ours > 0.85
    assert rows["laws.bias"].met and rows["laws.forecast"].ours < 0.1 and not rows["laws.forecast"].peers
