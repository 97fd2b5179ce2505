"""What was measured of a served run, as the plan's milestone of serving."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rag_hpc.errors import CorruptOutput
from rag_hpc.eval import loads
from rag_hpc.eval.bench.serve import serve
from rag_hpc.eval.bench.serve.load import Sample
from rag_hpc.eval.loads import Load
from rag_hpc.eval.results import Results
from rag_hpc.eval.verdicts import Milestone

LOAD = Load(
    route="query",
    qps=20.0,
    seconds=600.0,
    requests=12_000,
    failed=0,
    until=loads.FIRST_WORDS,
    p99_ms=200.0,
    low_ms=180.0,
    high_ms=220.0,
    compared=50,
    same=50,
    processor="AMD",
    contention=1.0,
    unix=0.0,
)


def judged(folder: Path, load: Load, **predicted: float) -> Milestone:
    loads.write(folder, load)
    (row,) = loads.rows(Results(folder), predicted)
    return row


@pytest.mark.parametrize(("bound", "verdict"), [(220, "hit"), (179, "missed"), (200, "not judged")])
def test_p99_is_judged_by_its_whole_interval(tmp_path: Path, bound: float, verdict: str) -> None:
    row = judged(tmp_path, LOAD, max_p99_ms=bound, min_qps=20)
    assert (row.verdict, row.value, row.low, row.high, row.bound) == (verdict, 200, 180, 220, bound)
    assert row.result == "200 ms [180, 220]" and "12000 requests, 0 failed" in row.note


def test_few_samples_and_other_answers_are_no_hit(tmp_path: Path) -> None:
    few = judged(tmp_path, dataclasses.replace(LOAD, requests=9_999), max_p99_ms=300)
    assert few.verdict == "not judged" and "10000 requests are needed" in few.note
    other = judged(tmp_path, dataclasses.replace(LOAD, same=49), max_p99_ms=300)
    assert other.verdict == "missed" and "1 of 50 answers are not the batch job's" in other.note
    endless = judged(tmp_path, dataclasses.replace(LOAD, p99_ms=None, low_ms=None, high_ms=None), max_p99_ms=300)
    assert endless.verdict == "missed" and endless.result.startswith("inf ms")


def test_the_lowest_rate_that_is_high_enough_counts(tmp_path: Path) -> None:
    loads.write(tmp_path, dataclasses.replace(LOAD, qps=10.0, p99_ms=1.0))
    loads.write(tmp_path, dataclasses.replace(LOAD, qps=100.0))
    assert judged(tmp_path, LOAD, max_p99_ms=300, min_qps=15).name == "p99 at 20 requests/s, query"
    (absent,) = loads.rows(Results(tmp_path), {"max_p99_ms": 300, "min_qps": 101})
    assert absent.verdict == "not judged" and "rag-hpc bench serve" in absent.note
    shown = list(loads.rows(Results(tmp_path), {}))  # all, where nothing is predicted
    assert [row.verdict for row in shown] == ["not judged"] * 3 and not list(loads.rows(Results(tmp_path / "no"), {}))


def test_a_record_that_was_altered_is_named(tmp_path: Path) -> None:
    path = loads.write(tmp_path, LOAD)
    path.write_text(path.read_text().replace('"failed":0', '"failed":9'))
    with pytest.raises(CorruptOutput, match=r"query-20\.json: damaged"):
        loads.loads_of(tmp_path)


def test_a_load_is_kept_with_its_failures_as_for_ever() -> None:
    told = {"answer": "a", "timings_ms": {}}
    good = [
        Sample(due_s=0, body={"question": "q"}, first_s=0.1, whole_s=0.2, status=200, told=told) for _ in range(150)
    ]
    load = serve.measured({"route": "query", "qps": "5", "seconds": "30"}, good, {"q": "b"}, None)
    assert (load.p99_ms, load.compared, load.same, load.failed) == (pytest.approx(100), 150, 0, 0)
    failed = [Sample(due_s=0, body={"question": "q"}, error="503")] * 2
    load = serve.measured({"route": "retrieve", "qps": "5", "seconds": "30"}, good + failed, {}, None)
    assert (load.p99_ms, load.until, load.failed) == (None, loads.WHOLE, 2)
