from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import toystages

from rag_hpc.core import commit, manifest
from rag_hpc.core.fs import canonical_json
from rag_hpc.core.ledger import Ledger
from rag_hpc.core.plan import Plan
from rag_hpc.core.policy import Policy
from rag_hpc.core.record import Meter
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import CorruptOutput, IncompleteError, UnitFailed
from rag_hpc.launchers.advance import advance
from rag_hpc.stores.tables import write_table

IDENTITY = {
    "run": "run",
    "stage": "toy",
    "attempt": 1,
    "submission": 1,
    "job_id": None,
    "array_task_id": None,
    "restarts": 0,
    "host": "here",
    "rank": 0,
    "p": 1,
    "launch": "array",
    "cpus": 1,
    "gpus": 0,
    "queue_s": None,
    "setup_s": 0.0,
}
Finished = tuple[Plan, Path]


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """Two committed units, each a small text and a table, without a manifest."""
    units = [Unit(0, {}), Unit(1, {})]
    plan = Plan(
        run="run",
        stage="toy",
        version=1,
        fingerprint="cd" * 32,
        config={},
        inputs={},
        units=units,
        submission=1,
        workers=1,
        policy=Policy(max_attempts=2),
    )
    units_dir = tmp_path / plan.folder / "units"
    units_dir.mkdir(parents=True)
    for unit in units:
        draft = commit.open_draft(units_dir, commit.draft_name(unit, 1, 0, 0))
        (draft / "a.txt").write_text(f"text of {unit.name}")
        write_table(draft / "t.parquet", pa.table({"x": [1, 2, unit.index]}))
        counts = Counts(items_in=4, items_out=3, dropped={"odd": 1}, extra={"tokens": 10.5})
        commit.commit(draft, unit, counts, Meter(), IDENTITY)
    return plan, tmp_path / plan.folder


def unsealed(path: Path) -> dict[str, Any]:
    """Return what a file of a run says, to be changed and written as version 0.1.0 did."""
    value: dict[str, Any] = json.loads(path.read_text())
    del value["seal"]
    return value


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
    value = unsealed(record)
    break_and_restore(
        record,
        canonical_json({**value, "host": "elsewhere", "work_s": 9.0, "p": 7}),
        lambda: None if manifest.build(*finished) == before else pytest.fail("hosts and clocks count"),
    )
    assert before.file_hash("a.txt") != before.file_hash("t.parquet")


def test_file_cut_at_any_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00001/a.txt"
    size = path.stat().st_size

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"unit-00001/a\.txt: .*mend it: rag-hpc retry --files"):
            manifest.build(*finished)

    for length in range(size):
        break_and_restore(path, path.read_bytes()[:length], check)
    manifest.build(*finished)


def test_any_changed_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00001/a.txt"
    data = path.read_bytes()

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"a\.txt: .*rag-hpc retry --files"):
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
    with pytest.raises(CorruptOutput, match=rf"unit-00000/{name}: .*mend it: rag-hpc retry --files"):
        manifest.build(*finished)


def test_record_cut_at_any_byte_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00000/record.json"

    def check() -> None:
        with pytest.raises(CorruptOutput, match=r"record\.json: damaged"):
            manifest.build(*finished)

    for length in range(0, path.stat().st_size - 1, 7):
        break_and_restore(path, path.read_bytes()[:length], check)


@pytest.mark.parametrize(
    "change", [{"items_out": 2}, {"unit": 1}, {"dropped": {}}, {"dropped": None}, {"files": 3}, {"items_in": "4"}]
)
def test_record_that_lies_is_found(finished: Finished, change: dict[str, object]) -> None:
    path = finished[1] / "units/unit-00000/record.json"
    path.write_bytes(canonical_json({**unsealed(path), **change}))
    with pytest.raises(CorruptOutput, match=r"unit-00000/record\.json: .*rag-hpc retry --files"):
        manifest.build(*finished)


def test_wrong_number_of_rows_is_found(finished: Finished) -> None:
    path = finished[1] / "units/unit-00000/record.json"
    value = unsealed(path)
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
    said = (
        r"1 of 2 units failed 2 times \(unit-00001\); the first: ValueError: odd page\. "
        r"Mend .*rag-hpc retry run=/.*, or allow it with allow_failed_units=1"
    )
    with pytest.raises(UnitFailed, match=said):
        manifest.build(plan, stage_dir)
    found = manifest.build(dataclasses.replace(plan, policy=Policy(max_attempts=2, allow_failed_units=1)), stage_dir)
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
        with pytest.raises(CorruptOutput, match=r"manifest\.json: damaged .*mend it: rag-hpc retry --files"):
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
    with pytest.raises(CorruptOutput, match="it is gone"):
        found.checked(1, "a.txt")


def test_manifest_names_no_host_time_place_or_worker(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run", ("toy.source",), workers=7))
    found = toystages.run_inline(submission)["toy.source"]
    text = (found.folder / manifest.MANIFEST).read_text()
    value = json.loads(text)
    told = {"stage", "version", "fingerprint", "config", "inputs", "units", "quarantined", "output_hash"}
    assert set(value) == told | {"identity", "counts_from", "seal"}
    assert all(set(unit) == {"index", "items_in", "items_out", "dropped", "extra", "files"} for unit in value["units"])
    for word in (socket.gethostname() + '"', str(ledger.run_dir), "unix", '_s"', "attempt", "rank"):
        assert word not in text


def test_settings_without_effect_on_output_are_not_in_the_manifest(ledger: Ledger, tmp_path: Path) -> None:
    found = toystages.run_inline(ledger.submit(toystages.toy_request("run", ("toy.source",), trouble="/x")))
    assert found["toy.source"].config == {"num_units": 5, "rows": 20, "scale": 2}


def test_interrupted_close_is_repeated_with_equal_bytes(ledger: Ledger) -> None:
    submission = ledger.submit(toystages.toy_request("run", ("toy.source",)))
    found = toystages.run_inline(submission)["toy.source"]
    before = (found.folder / manifest.MANIFEST).read_bytes()
    os.unlink(found.folder / manifest.MANIFEST)  # noqa: PTH108
    advance(submission)
    assert (found.folder / manifest.MANIFEST).read_bytes() == before


def test_what_a_manifest_says_of_rows_items_version_and_settings_is_under_its_seal(finished: Finished) -> None:
    """The output hash leaves all that out."""
    manifest.publish(manifest.build(*finished))
    path = finished[1] / manifest.MANIFEST
    data = path.read_bytes()
    for old, new in (
        (b'"rows":3', b'"rows":4'),
        (b'"items_out":3', b'"items_out":4'),
        (b'"version":1', b'"version":2'),
        (b'"config":{}', b'"config":{"x":1}'),
        (b'"odd":1', b'"odd":2'),
        (b'"quarantined":[]', b'"quarantined":[7]'),
    ):
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(CorruptOutput, match=r"manifest\.json: damaged \(its text is not the one"):
            manifest.load(finished[1])
    path.write_bytes(data)
    assert manifest.load(finished[1]).seal == json.loads(data)["seal"]


def test_a_manifest_of_another_stage_is_no_manifest_here(finished: Finished) -> None:
    built = manifest.build(*finished)
    manifest.publish(dataclasses.replace(built, fingerprint="ef" * 32))
    with pytest.raises(CorruptOutput, match=r"manifest\.json: damaged \(it is of toy-efefefefefef\)"):
        manifest.load(finished[1])


def test_a_file_is_hashed_once_a_process_and_its_size_each_time(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, read = manifest.build(*finished), list[Path]()
    real = manifest.hash_file
    monkeypatch.setattr(manifest, "hash_file", lambda path: (read.append(path), real(path))[1])
    assert [found.file(1, "absent", "a.txt") for _ in range(3)] == [found.unit_dir(1) / "a.txt"] * 3 == read * 3
    with (found.unit_dir(1) / "a.txt").open("a") as stream:
        stream.write("x")
    with pytest.raises(CorruptOutput, match="19 bytes instead of the 18 that the manifest promises; mend it"):
        found.file(1, "a.txt")
    assert len(read) == 1
    for name in ("absent", "record.json"):
        with pytest.raises(CorruptOutput, match=rf"unit-00000/{name}: "):
            found.file(0, name)


def test_flaws_are_told_by_size_or_by_every_byte_a_line_a_file(finished: Finished) -> None:
    manifest.publish(manifest.build(*finished))
    found = manifest.load(finished[1])
    assert found.flaws() == found.flaws(manifest.EVERY) == []
    one, two = (found.unit_dir(index) / "a.txt" for index in (0, 1))
    one.write_text("text of unit-00009")
    two.write_text("longer than it was")
    (found.unit_dir(1) / "t.parquet").unlink()
    (found.unit_dir(0) / "record.json").write_bytes((found.unit_dir(1) / "record.json").read_bytes())
    sizes, every = ([flaw.path for flaw in found.flaws(since)] for since in (manifest.NEVER, manifest.EVERY))
    assert sizes == [two.with_name("t.parquet")] or sizes == [two, two.with_name("t.parquet")]
    assert every == [one.with_name("record.json"), one, two, two.with_name("t.parquet")]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("damage", ["size", "late change", "rot", "file gone", "record", "unit gone", "manifest"])
def test_what_is_not_whole_is_taken_back_and_what_is_stays(finished: Finished, damage: str, closed: bool) -> None:
    plan, stage_dir = finished
    manifest.publish(manifest.build(*finished))
    path, unit_dir = stage_dir / manifest.MANIFEST, stage_dir / "units/unit-00001"
    before = path.read_bytes()
    if not closed:
        path.unlink()
    if damage == "size":
        (unit_dir / "a.txt").write_text("more than it was before")
    elif damage in ("late change", "rot"):
        (unit_dir / "a.txt").write_text("text of unit-00009")
    elif damage == "file gone":
        (unit_dir / "t.parquet").unlink()
    elif damage == "record":
        (unit_dir / "record.json").write_text("{")
    elif damage == "unit gone":
        shutil.rmtree(unit_dir)
    elif closed:
        path.write_bytes(before[:-9])
    if damage == "rot":  # as old as it was
        os.utime(unit_dir / "a.txt", ns=(1, 1))
        assert manifest.take_back(stage_dir) == [] and path.exists() == closed
    told = manifest.take_back(stage_dir, every_byte=damage == "rot")
    if not closed and damage in ("unit gone", "manifest"):
        assert told == []
    else:
        assert told and all(line.startswith(f"{unit_dir}/" if damage != "manifest" else f"{path}: ") for line in told)
    assert not path.exists() and unit_dir.exists() == (damage == "manifest")
    assert (stage_dir / "units/unit-00000/a.txt").read_text() == "text of unit-00000"
    assert manifest.take_back(stage_dir) == []
    if damage == "manifest":
        manifest.publish(manifest.build(plan, stage_dir))
        assert path.read_bytes() == before


def test_what_cannot_be_read_is_not_taken_for_damaged(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away for a moment is no reason to throw a unit away."""
    manifest.publish(manifest.build(*finished))

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(manifest, "hash_file", broken)
    with pytest.raises(CorruptOutput, match=r"a\.txt: cannot be read \(Input/output error\); see that it can be read"):
        manifest.take_back(finished[1], every_byte=True)
    assert commit.committed(finished[1] / "units") == {0, 1} and (finished[1] / manifest.MANIFEST).exists()
