from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import toystages

from rag_hpc.core import commit, manifest
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.plan import Plan
from rag_hpc.core.record import Meter
from rag_hpc.core.stage import Counts, Unit
from rag_hpc.core.tables import write_table
from rag_hpc.errors import CorruptOutput, IncompleteError, UnitFailed
from rag_hpc.launchers.advance import advance
from rag_hpc.launchers.ledger import Ledger

IDENTITY = {"run": "run", "stage": "toy", "attempt": 1, "submission": 1, "job_id": None, "array_task_id": None,
            "restarts": 0, "host": "here", "rank": 0, "p": 1, "launch": "array", "cpus": 1, "gpus": 0, "queue_s": None,
            "setup_s": 0.0}
Finished = tuple[Plan, Path]


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """Two committed units, each a small text and a table, without a manifest."""
    units = [Unit(0, {}), Unit(1, {})]
    plan = Plan(run="run", stage="toy", version=1, fingerprint="cd" * 32, config={}, inputs={}, units=units,
                submission=1, workers=1, max_attempts=2)
    units_dir = tmp_path / plan.folder / "units"
    units_dir.mkdir(parents=True)
    for unit in units:
        draft = commit.open_draft(units_dir, commit.draft_name(unit, 1, 0, 0))
        (draft / "a.txt").write_text(f"text of {unit.name}")
        write_table(draft / "t.parquet", pa.table({"x": [1, 2, unit.index]}))
        counts = Counts(items_in=4, items_out=3, dropped={"odd": 1}, extra={"tokens": 10.5})
        commit.commit(draft, unit, counts, Meter(), IDENTITY)
    return plan, tmp_path / plan.folder


def break_and_restore(path: Path, data: bytes, check: Callable[[], None]) -> None:
    """Run the check while the file holds other bytes."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        check()
    finally:
        path.write_bytes(before)


def test_manifest_sums_up_what_units_did(finished: Finished) -> None:
    built = manifest.build(*finished)
    manifest.publish(built)
    found = manifest.load(finished[1])
    assert found == built
    assert (found.total("items_in"), found.total("items_out")) == (8, 6)
    assert found.dropped() == {"odd": 2} and found.extra() == {"tokens": 21.0}
    assert found.rows("t.parquet") == [3, 3] and found.rows("a.txt") == [0, 0]
    assert [p.read_text() for p in found.files("a.txt")] == ["text of unit-00000", "text of unit-00001"]
    assert found.files("absent") == []


def test_output_hash_is_of_the_files_and_nothing_else(finished: Finished) -> None:
    before = manifest.build(*finished)
    record = finished[1] / "units/unit-00000/record.json"
    value = json.loads(record.read_text())
    break_and_restore(record, canonical_json({**value, "host": "elsewhere", "work_s": 9.0, "p": 7}),
                      lambda: None if manifest.build(*finished) == before else pytest.fail("hosts and clocks count"))
    assert before.file_hash("a.txt") != before.file_hash("t.parquet")


def test_file_cut_at_any_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00001/a.txt"
    size = path.stat().st_size

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"a\.txt: .* remove .*unit-00001 and run again"):
            manifest.build(*finished)

    for length in range(size):
        break_and_restore(path, path.read_bytes()[:length], check)
    manifest.build(*finished)


def test_any_changed_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00001/a.txt"
    data = path.read_bytes()

    def check() -> None:
        with pytest.raises(CorruptOutput, match="run again to redo the unit"):
            manifest.build(*finished)

    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        break_and_restore(path, changed, check)


@pytest.mark.parametrize("cpus", [1, 4])
def test_manifest_does_not_depend_on_how_many_files_are_read_at_once(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    before = manifest.build(*finished)
    monkeypatch.setattr(manifest, "granted_cpus", lambda: cpus)
    assert manifest.build(*finished) == before
    for unit in ("unit-00001", "unit-00000"):
        (finished[1] / "units" / unit / "t.parquet").write_bytes(b"no table")
        with pytest.raises(CorruptOutput, match=rf"{unit}/t\.parquet"):  # the first, whatever else is wrong
            manifest.build(*finished)


def test_files_are_hashed_at_once(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    both, real = threading.Barrier(2, timeout=60), manifest.hash_file

    def hashed(path: Path) -> str:
        both.wait()  # until another file is being hashed too
        return real(path)

    monkeypatch.setattr(manifest, "granted_cpus", lambda: 2)
    monkeypatch.setattr(manifest, "hash_file", hashed)
    assert len(manifest.build(*finished).units) == 2


def test_table_cut_anywhere_is_found_without_parsing_it(finished: Finished) -> None:
    path = finished[1] / "units/unit-00000/t.parquet"
    data = path.read_bytes()

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"t\.parquet"):
            manifest.build(*finished)

    for length in range(0, len(data), 37):
        break_and_restore(path, data[:length], check)


@pytest.mark.parametrize("name", ["a.txt", "t.parquet", "record.json"])
def test_missing_file_is_found(finished: Finished, name: str) -> None:
    (finished[1] / "units/unit-00000" / name).unlink()
    with pytest.raises(CorruptOutput, match=r"cannot be read .*remove .*unit-00000 and run again"):
        manifest.build(*finished)


def test_record_cut_at_any_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00000/record.json"

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"record\.json: cannot be read"):
            manifest.build(*finished)

    for length in range(0, path.stat().st_size - 1, 7):
        break_and_restore(path, path.read_bytes()[:length], check)


@pytest.mark.parametrize("change", [{"items_out": 2}, {"unit": 1}, {"dropped": {}}, {"dropped": None}, {"files": 3},
                                    {"items_in": "4"}])
def test_record_that_lies_is_found(finished: Finished, change: dict[str, object]) -> None:
    path = finished[1] / "units/unit-00000/record.json"
    path.write_bytes(canonical_json({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorruptOutput, match=r"record\.json: .*remove .*unit-00000 and run again"):
        manifest.build(*finished)


def test_wrong_number_of_rows_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00000/record.json"
    value = json.loads(path.read_text())
    value["files"]["t.parquet"]["rows"] = 2
    path.write_bytes(canonical_json(value))
    with pytest.raises(CorruptOutput, match=r"'rows': 3.* is not what its record promises"):
        manifest.build(*finished)


def test_absent_units_are_named_with_the_command_to_go_on(finished: Finished) -> None:
    shutil.rmtree(finished[1] / "units/unit-00001")
    with pytest.raises(IncompleteError, match=r"1 of 2 units are absent \(unit-00001\); run: rag-hpc retry run=/.*"):
        manifest.build(*finished)
    with pytest.raises(IncompleteError, match="no manifest yet"):
        manifest.load(finished[1])


def test_quarantined_units_fail_the_stage_unless_allowed(finished: Finished) -> None:
    from rag_hpc.core.failures import record_failure

    plan, stage_dir = finished
    shutil.rmtree(stage_dir / "units/unit-00001")
    for _ in range(2):
        record_failure(stage_dir, plan.units[1], ValueError("odd page."), submission=1)
    said = (r"1 of 2 units failed 2 times \(unit-00001\); the first: ValueError: odd page\. "
            r"Mend .*rag-hpc retry run=/.*, or allow it with allow_failed_units=1")
    with pytest.raises(UnitFailed, match=said):
        manifest.build(plan, stage_dir)
    found = manifest.build(dataclasses.replace(plan, allow_failed_units=1), stage_dir)
    assert found.quarantined == [1] and [u["index"] for u in found.units] == [0]
    manifest.publish(found)
    assert manifest.reopen(finished[1])
    assert not (finished[1] / manifest.MANIFEST).exists()


def test_a_whole_stage_is_not_reopened(finished: Finished) -> None:
    manifest.publish(manifest.build(*finished))
    assert not manifest.reopen(finished[1])
    assert (finished[1] / manifest.MANIFEST).exists()


def test_second_writer_of_the_same_manifest_is_content(finished: Finished) -> None:
    built = manifest.build(*finished)
    manifest.publish(built)
    data = (finished[1] / manifest.MANIFEST).read_bytes()
    manifest.publish(built)
    assert (finished[1] / manifest.MANIFEST).read_bytes() == data


def test_another_output_under_the_same_fingerprint_is_an_error(finished: Finished) -> None:
    built = manifest.build(*finished)
    manifest.publish(built)
    with pytest.raises(CorruptOutput, match="two different outputs claim the fingerprint cdcdcdcdcdcd"):
        manifest.publish(dataclasses.replace(built, output_hash="00", units=built.units[:1]))


def test_manifest_cut_or_changed_is_found(finished: Finished) -> None:
    manifest.publish(manifest.build(*finished))
    path = finished[1] / manifest.MANIFEST
    data = path.read_bytes()

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"manifest\.json: .*remove it and run again"):
            manifest.load(finished[1])

    for length in range(0, len(data) - 1, 11):
        break_and_restore(path, data[:length], check)
    sha256 = manifest.load(finished[1]).units[0]["files"]["a.txt"]["sha256"]
    break_and_restore(path, data.replace(sha256.encode(), b"0" * 64), check)
    for other in (b"[]", b"{}", b"null", b'{"stage": "toy"}'):
        break_and_restore(path, other, check)


def test_index_files_are_checked_before_they_are_parsed(finished: Finished) -> None:
    found = manifest.build(*finished)
    path = found.checked(1, "a.txt")
    path.chmod(0o620)
    with pytest.raises(CorruptOutput, match="writable by group or others; run: chmod -R go-w"):
        found.checked(1, "a.txt")
    path.chmod(0o600)
    path.write_text("text of unit-00009")
    with pytest.raises(CorruptOutput, match="not what the manifest promises"):
        found.checked(1, "a.txt")
    path.unlink()
    with pytest.raises(CorruptOutput, match="cannot be read"):
        found.checked(1, "a.txt")


def test_manifest_names_no_host_time_place_or_worker(ledger: Ledger) -> None:
    request = ledger.submit(toystages.toy_request("run", ("toy.source",), workers=7))
    found = toystages.run_inline(ledger, request)["toy.source"]
    text = (found.folder / manifest.MANIFEST).read_text()
    value = json.loads(text)
    assert set(value) == {"stage", "version", "fingerprint", "config", "inputs", "units", "quarantined", "output_hash"}
    assert all(set(unit) == {"index", "items_in", "items_out", "dropped", "extra", "files"} for unit in value["units"])
    for word in (socket.gethostname() + '"', str(ledger.run_dir), "unix", "_s\"", "attempt", "rank"):
        assert word not in text


def test_settings_without_effect_on_output_are_not_in_the_manifest(ledger: Ledger, tmp_path: Path) -> None:
    found = toystages.run_inline(ledger, ledger.submit(toystages.toy_request("run", ("toy.source",), trouble="/x")))
    assert found["toy.source"].config == {"num_units": 5, "rows": 20, "scale": 2}


def test_interrupted_close_is_repeated_with_equal_bytes(ledger: Ledger) -> None:
    request = ledger.submit(toystages.toy_request("run", ("toy.source",)))
    found = toystages.run_inline(ledger, request)["toy.source"]
    before = (found.folder / manifest.MANIFEST).read_bytes()
    os.unlink(found.folder / manifest.MANIFEST)  # noqa: PTH108
    advance(ledger, request)
    assert (found.folder / manifest.MANIFEST).read_bytes() == before
