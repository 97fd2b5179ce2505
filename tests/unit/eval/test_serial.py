"""What the records name as serial, and what explains a superlinear point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_run
import pytest

from rag_hpc import cli
from rag_hpc.eval.serial import alone, superlinear


def unit(number: int, begin: float, end: float, **values: Any) -> dict[str, Any]:
    whole = {"stage": "encode", "unit": number, "p": 2, "launch": "array", "started_unix": begin, "ended_unix": end}
    return {
        **whole,
        "host": "n1",
        "rank": 0,
        "job_id": "1",
        "array_task_id": "0",
        "bytes_read": 0,
        "hardware": {},
        **values,
    }


def test_the_unit_that_was_at_work_alone_is_named() -> None:
    found = alone([unit(0, 0, 4), unit(1, 0, 3), unit(2, 3, 10)])
    assert found is not None and (found.seconds, found.wall_s, found.worst) == (6, 10, "unit 2 of encode")
    assert found.said == "60 % of T with one unit or none at work; 60 %: unit 2 of encode"


def test_gaps_between_units_count_and_full_work_does_not() -> None:
    found = alone([unit(0, 0, 4), unit(1, 0, 4), unit(2, 6, 8), unit(3, 6, 8)])
    assert found is not None and (found.worst, found.worst_s) == ("between units", 2)
    found = alone([unit(0, 0, 4), unit(1, 0, 4)])
    assert found is not None and found.said == "no unit was ever alone"


@pytest.mark.parametrize("values", [{"p": 1}, {"launch": "mpi"}])
def test_where_records_cannot_tell_nothing_is_named(values: dict[str, Any]) -> None:
    assert alone([unit(0, 0, 4, **values), unit(1, 4, 6, **values)]) is None and alone([]) is None


def test_a_superlinear_point_is_explained_by_the_cache_or_not() -> None:
    def workers(num: int, each: int, cache: int) -> list[dict[str, Any]]:
        return [unit(n, 0, 1, rank=n, bytes_read=each, hardware={"cache_bytes": cache}) for n in range(num)]

    one, two = workers(1, 48 << 20, 32 << 20), workers(2, 24 << 20, 32 << 20)
    assert superlinear(1.2, one, two).endswith("its cache holds 32.0 MiB: its share fits, the whole did not")
    assert "explains nothing" in superlinear(1.2, workers(1, 4, 32), workers(2, 2, 32))
    assert "do not tell a cache" in superlinear(1.2, workers(1, 4, 0), workers(2, 2, 0))
    assert superlinear(1.04, one, two) == ""


def test_scaling_names_it_for_the_run_of_most_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for p in (1, 3):  # eight units of crawl for three workers: two of them end before the last two units
        fake_run.build(tmp_path, fake_run.Shape(name=f"c-w{p}", p=p, stages=["crawl"]))
    assert cli.main(["scaling", "c-w1", "c-w3", f"cluster.root={tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["serial"] == {}  # two units side by side at the end
    fake_run.build(tmp_path, fake_run.Shape(name="c-w7", p=7, stages=["crawl"]))
    assert cli.main(["scaling", "c-w1", "c-w7", f"cluster.root={tmp_path}"]) == 0
    assert "serial in c-w7, by its records:\n  crawl: 50 % of T with one unit or none" in capsys.readouterr().out
