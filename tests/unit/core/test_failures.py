from __future__ import annotations

from pathlib import Path

from rag_hpc.core.failures import failure_counts, failures, forgive, num_failures, record_failure
from rag_hpc.core.unit import Unit


def fail(stage_dir: Path, index: int, message: str) -> int:
    try:
        raise ValueError(message)
    except ValueError as error:
        return record_failure(stage_dir, Unit(index, {}), error, submission=2)


def test_attempts_are_counted_by_unit(tmp_path: Path) -> None:
    assert [fail(tmp_path, 1, "a"), fail(tmp_path, 1, "b"), fail(tmp_path, 12, "c")] == [1, 2, 1]
    assert failure_counts(tmp_path) == {1: 2, 12: 1}
    assert num_failures(tmp_path, Unit(1, {})) == 2
    assert num_failures(tmp_path, Unit(2, {})) == 0


def test_failures_are_listed_oldest_first_beyond_nine_attempts(tmp_path: Path) -> None:
    for number in range(12):
        fail(tmp_path, 3, f"number {number}")
    assert [one["message"] for one in failures(tmp_path)[3]] == [f"number {number}" for number in range(12)]


def test_failure_tells_what_and_where(tmp_path: Path) -> None:
    fail(tmp_path, 3, "caf\udce9.html is odd")
    (value,) = failures(tmp_path)[3]
    assert (value["error"], value["message"], value["submission"]) == ("ValueError", "caf\udce9.html is odd", 2)
    assert "raise ValueError(message)" in value["traceback"] and value["host"]


def test_forgiven_units_start_anew(tmp_path: Path) -> None:
    fail(tmp_path, 1, "a")
    fail(tmp_path, 2, "b")
    assert forgive(tmp_path) == 2
    assert failures(tmp_path) == {}
    assert fail(tmp_path, 1, "again") == 1


def test_stage_without_failures_has_none(tmp_path: Path) -> None:
    assert failures(tmp_path) == {} and forgive(tmp_path) == 0 and not failure_counts(tmp_path / "absent")
