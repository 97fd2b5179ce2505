"""T, S and E from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_run
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.eval import times
from rag_hpc.eval.results import Results


def record(unit: int, started: float, ended: float, **values: Any) -> dict[str, Any]:
    """Return what `measure` reads of a record."""
    return {
        "unit": unit,
        "started_unix": started,
        "ended_unix": ended,
        "submission": 1,
        "job_id": None,
        "restarts": 0,
        "array_task_id": None,
        "host": "node-01",
        "rank": 0,
        "p": 2,
        "launch": "array",
        "queue_s": None,
        "setup_s": 3.0,
        "work_s": ended - started,
        "flush_s": 0.5,
        "cpu_s": 1.0,
        "items_in": 10,
        "items_out": 9,
        "dropped": {"bad": 1},
        "bytes_read": 100,
        "bytes_written": 50,
        "peak_rss_bytes": 1000,
        "pressure_cpu": None,
        **values,
    }


def test_t_runs_from_the_first_start_to_the_last_end() -> None:
    found = times.measure("clean", [record(0, 100, 104), record(1, 101, 110), record(2, 105, 106)])
    assert found.wall_s == 10
    assert found.rate == 3.0
    assert found.dropped == {"bad": 3}


def test_setup_and_queue_count_once_a_worker_and_stay_out_of_t() -> None:
    first = [record(i, 100 + i, 101 + i, rank=0, queue_s=8.0) for i in range(5)]
    second = [record(9, 100, 105, rank=1, queue_s=12.0, setup_s=4.0)]
    found = times.measure("encode", [*first, *second])
    assert found.num_workers == 2
    assert (found.setup_s, found.queue_s, found.wall_s) == (7.0, 10.0, 5)
    assert found.per_worker == {"queue": 10.0, "setup": 3.5, "work": 5.0, "flush": 1.5}


def test_the_pause_between_two_submissions_is_no_work() -> None:
    found = times.measure("crawl", [record(0, 100, 110), record(1, 5000, 5005, submission=2)])
    assert (found.wall_s, found.num_submissions) == (15, 2)


def test_absent_queue_and_pressure_stay_absent() -> None:
    found = times.measure("clean", [record(0, 1, 2), record(1, 2, 3)])
    assert found.queue_s is None
    assert found.pressure_cpu is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e3)), min_size=1, max_size=8))
def test_t_covers_every_unit_whatever_their_order(spans: list[tuple[float, float]]) -> None:
    records = [record(i, start, start + length) for i, (start, length) in enumerate(spans)]
    found = times.measure("clean", records).wall_s
    assert found >= max(length for _, length in spans) - 1e-6
    assert found == times.measure("clean", records[::-1]).wall_s


def test_steps_add_up_to_their_stage(run: Results) -> None:
    steps = {row.stage: row for row in times.step_times(run)}
    stages = {row.stage: row for row in times.stage_times(run)}
    parts = [part for name, part in steps.items() if name.startswith("dedup.")]
    assert len(parts) == 5
    assert stages["dedup"].wall_s == pytest.approx(sum(part.wall_s for part in parts))
    assert stages["dedup"].num_units == 14
    assert (stages["dedup"].items_in, stages["dedup"].items_out) == (24, 21)
    assert stages["dedup"].dropped == {"exact-duplicate": 1, "near-duplicate": 2}
    assert list(stages)[:4] == ["crawl", "clean", "dedup", "chunk"]


def test_s_is_the_ratio_of_times_and_e_its_share_of_p(run: Results, base: Results) -> None:
    found = {row.stage: row for row in times.speedups(run, base)}
    encode = found["encode"]
    assert encode.speedup == pytest.approx(encode.baseline.wall_s / encode.run.wall_s)
    assert encode.speedup == pytest.approx(2 / 1.04, rel=1e-3)
    assert encode.efficiency == pytest.approx(encode.speedup / 2)
    assert "vectors" not in found


def test_a_stage_that_is_not_finished_has_no_speed_up(tmp_path: Path, base: Results) -> None:
    run = Results(fake_run.build(tmp_path, fake_run.Shape(finish=3)))
    assert [row.stage for row in times.speedups(run, base)] == ["crawl", "clean"]
