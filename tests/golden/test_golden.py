"""A stage's output changes only together with its version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stagerun

from tests.golden import golden, update

GOLDEN, VALUES = golden.read(golden.HASHES), golden.read(golden.VALUES)


@pytest.fixture(scope="module")
def found() -> dict[str, golden.Entry]:
    stagerun.chain_or_skip()
    return golden.entries()


@pytest.mark.parametrize("name", GOLDEN)
def test_output_of_a_stage_is_that_of_its_version(name: str, found: dict[str, golden.Entry]) -> None:
    told = golden.complaint(name, GOLDEN, found)
    assert told is None, told


def test_every_stage_has_a_golden_hash_or_golden_values(found: dict[str, golden.Entry]) -> None:
    assert set(found) == set(GOLDEN)
    assert {name.partition("/")[0] for name in GOLDEN} | set(VALUES) == set(stagerun.STAGES)


@pytest.mark.parametrize("name", VALUES)
def test_values_of_a_floating_point_stage_are_close(name: str, found: dict[str, golden.Entry]) -> None:
    told = golden.far_off(VALUES[name], golden.values()[name])
    assert told is None, f"{name}: {told}; if that is meant: raise its version and run `{golden.UPDATE}`"


def _entry(version: int, output_hash: str, **made_with: str) -> dict[str, golden.Entry]:
    return {"clean": {"version": version, "output_hash": output_hash, "made_with": made_with}}


def test_complaint_tells_what_to_do() -> None:
    was = _entry(1, "a", resiliparse="2.0")
    assert golden.complaint("clean", was, _entry(1, "a", resiliparse="2.1")) is None
    changed = "output of clean changed: raise its version and run `python -m tests.golden.update`"
    assert golden.complaint("clean", was, _entry(1, "b", resiliparse="2.0")) == changed
    assert golden.complaint("clean", was, _entry(1, "b", resiliparse="2.1")) == f"{changed} (resiliparse 2.0 -> 2.1)"
    raised = "clean has version 2, its golden hash is of version 1: run `python -m tests.golden.update`"
    assert golden.complaint("clean", was, _entry(2, "a")) == raised == golden.complaint("clean", was, _entry(2, "b"))
    assert golden.complaint("clean", {}, was) == "clean is new: run `python -m tests.golden.update`"
    assert golden.complaint("clean", was, {}) == "clean is gone: run `python -m tests.golden.update`"


def test_values_beyond_the_tolerance_are_told() -> None:
    def values(equal: int, *close: float, version: int = 1) -> dict[str, Any]:
        return {"version": version, "equal": [equal], "close": list(close)}

    was = values(1, 0.5, 0.25)
    assert golden.far_off(was, values(1, 0.504, 0.25)) is None
    assert golden.far_off(was, values(1, 0.52, 0.25)) == "a number is off by 0.0200"
    assert golden.far_off(was, values(2, 0.5, 0.25)) == "[2] instead of [1]"
    assert golden.far_off(was, values(1, 0.5)) == "1 numbers instead of 2"
    assert golden.far_off(was, values(1, 0.5, 0.25, version=2)) == "version 2, but the golden values are of version 1"


def test_parquet_is_hashed_by_rows_and_types_not_by_bytes(tmp_path: Path) -> None:
    def write(name: str, kind: Any, compression: str, *values: int) -> str:
        pq.write_table(pa.table({"n": pa.array(values, kind)}), tmp_path / name, compression=compression)
        return golden.content_hash(tmp_path / name)

    one = write("a.parquet", pa.int64(), "zstd", 1, 2)
    assert write("b.parquet", pa.int64(), "snappy", 1, 2) == one
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "b.parquet").read_bytes()
    assert len({one, write("c.parquet", pa.int32(), "zstd", 1, 2), write("d.parquet", pa.int64(), "zstd", 2, 1)}) == 3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    hashes, values = tmp_path / "hashes.json", tmp_path / "values.json"
    hashes.write_text(json.dumps(_entry(1, "a")))
    monkeypatch.setattr(golden, "HASHES", hashes)
    monkeypatch.setattr(golden, "VALUES", values)
    monkeypatch.setattr(golden, "values", lambda: {"encode": {"equal": [], "close": []}})
    return hashes, values


@pytest.mark.parametrize(
    ("version", "output_hash", "flags", "written"),
    [(1, "a", [], True), (2, "b", [], True), (1, "b", [], False), (1, "b", ["--same-version"], True)],
)
def test_update_refuses_another_output_of_the_same_version(
    version: int,
    output_hash: str,
    flags: list[str],
    written: bool,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(golden, "entries", lambda: _entry(version, output_hash))
    assert update.main(flags) == (0 if written else 1)
    assert (json.loads(files[0].read_text())["clean"]["output_hash"] == output_hash) is written
    assert ("raise its version" in capsys.readouterr().err) is not written
    assert files[1].exists() is written


def test_update_can_be_started_as_the_message_says() -> None:
    root = Path(__file__).parents[2]
    script = "import tests.golden.update as u; from tests.golden import golden; print(golden.UPDATE)"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "python -m tests.golden.update"
