from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rag_hpc.core.fs import canonical_json
from rag_hpc.core.ledger import run_handle
from rag_hpc.core.plan import Plan, plan_path, read_plan, run_dir_of, stage_folder, write_plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.unit import Unit
from rag_hpc.errors import ConfigError, CorruptOutput, IncompleteError

PLAN = Plan(
    run="run",
    stage="toy",
    version=1,
    fingerprint="ab" * 32,
    config={"x": 1},
    inputs={"up": "up-0123"},
    units=[Unit(0, {"path": "a\udce9"}), Unit(7, {"n": [1, 2]})],
    submission=3,
    workers=2,
)


def test_plan_comes_back_equal(tmp_path: Path) -> None:
    path = plan_path(tmp_path, 3, "toy")
    write_plan(path, PLAN)
    assert read_plan(path) == PLAN
    assert run_dir_of(path) == tmp_path.resolve()


def test_a_plan_of_the_version_before_is_read(tmp_path: Path) -> None:
    """Until 0.1 the fields of the policy stood beside the others."""
    values = dataclasses.asdict(dataclasses.replace(PLAN, policy=Policy(max_attempts=7, allow_failed_units=2)))
    values |= values.pop("policy")
    assert values["max_attempts"] == 7
    (tmp_path / "toy.plan.json").write_bytes(canonical_json(values))
    assert read_plan(tmp_path / "toy.plan.json").policy == Policy(max_attempts=7, allow_failed_units=2)


def test_same_plan_may_be_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        write_plan(plan_path(tmp_path, 3, "toy"), PLAN)


def test_another_plan_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    path = plan_path(tmp_path, 3, "toy")
    write_plan(path, PLAN)
    with pytest.raises(ConfigError, match="plans never change, submit again"):
        write_plan(path, dataclasses.replace(PLAN, workers=5))
    assert read_plan(path) == PLAN


def test_a_run_is_called_by_its_name_where_that_is_found_and_by_its_folder_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_handle(Path("results/runs/mine")) == "mine"
    assert run_handle(tmp_path / "my scratch/mine") == f"'{tmp_path}/my scratch/mine'"


def test_missing_plan_says_what_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"toy\.plan\.json: no such plan; the gate .* rag-hpc why"):
        read_plan(plan_path(tmp_path, 1, "toy"))


def test_broken_plan_is_no_traceback(tmp_path: Path) -> None:
    path = plan_path(tmp_path, 1, "toy")
    write_plan(path, PLAN)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptOutput, match="rag-hpc retry"):
        read_plan(path)


def test_folder_tells_fingerprints_apart() -> None:
    assert PLAN.folder == stage_folder("toy", PLAN.fingerprint) == "toy-abababababab"


def test_runs_can_move(tmp_path: Path) -> None:
    write_plan(plan_path(tmp_path / "a", 3, "toy"), PLAN)
    (tmp_path / "a").rename(tmp_path / "b")
    path = plan_path(tmp_path / "b", 3, "toy")
    assert str(tmp_path) not in path.read_text()
    assert run_dir_of(path) == (tmp_path / "b").resolve()
