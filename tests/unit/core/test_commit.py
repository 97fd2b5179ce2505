from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rag_hpc.core import commit
from rag_hpc.core.record import Meter, Record
from rag_hpc.core.unit import Counts, Unit
from rag_hpc.errors import RagHpcError
from rag_hpc.stores.tables import write_table

UNIT = Unit(4, {})
IDENTITY: dict[str, Any] = {
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


def make_draft(units_dir: Path, text: str = "data", *, submission: int = 1, worker: int = 0, restarts: int = 0) -> Path:
    units_dir.mkdir(exist_ok=True)
    draft = commit.open_draft(units_dir, commit.draft_name(UNIT, submission, worker, restarts))
    (draft / "data.txt").write_text(text)
    return draft


def publish(draft: Path, counts: Counts | None = None) -> Record | None:
    return commit.commit(draft, UNIT, counts or Counts(items_in=3, items_out=3), Meter(), IDENTITY)


def test_committed_unit_holds_its_files_and_record(tmp_path: Path) -> None:
    record = publish(make_draft(tmp_path), Counts(items_in=3, items_out=1, dropped={"empty": 2}))
    assert record is not None and record.dropped == {"empty": 2}
    assert commit.committed(tmp_path) == {4}
    assert sorted(os.listdir(tmp_path)) == ["unit-00004"]
    assert commit.read_record(tmp_path / "unit-00004")["files"]["data.txt"]["bytes"] == 4


def test_late_draft_loses_to_committed_unit(tmp_path: Path) -> None:
    first, second = make_draft(tmp_path, "first"), make_draft(tmp_path, "second", worker=1)
    assert publish(first) is not None
    assert publish(second) is None
    assert (tmp_path / "unit-00004" / "data.txt").read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == ["unit-00004"]


@pytest.mark.parametrize("counts", [Counts(items_in=3, items_out=2), Counts(items_in=3, items_out=3, dropped={"x": 1})])
def test_counts_that_do_not_add_up_are_refused(tmp_path: Path, counts: Counts) -> None:
    with pytest.raises(commit.UnbalancedCounts, match=r"unit-00004: -?1 of 3 items"):
        publish(make_draft(tmp_path), counts)
    assert commit.committed(tmp_path) == set()


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    draft = make_draft(tmp_path)
    for name in "bc":
        (draft / name).touch()
    with pytest.raises(RagHpcError, match=r"at most 2 plain files beside its record\.json, this one: b, c, data\.txt"):
        publish(draft)
    assert commit.committed(tmp_path) == set()


@pytest.mark.parametrize("kind", ["folder", "link", "record"])
def test_what_is_no_plain_file_of_the_stage_is_refused(tmp_path: Path, kind: str) -> None:
    draft = make_draft(tmp_path)
    if kind == "folder":
        (draft / "inner").mkdir()
    elif kind == "link":
        (draft / "link").symlink_to("/etc/hostname")
    else:
        (draft / commit.RECORD).write_text("{}")
    with pytest.raises(RagHpcError, match="plain files"):
        publish(draft)


def test_new_draft_of_the_same_attempt_is_empty(tmp_path: Path) -> None:
    make_draft(tmp_path, "old")
    assert list(commit.open_draft(tmp_path, commit.draft_name(UNIT, 1, 0, 0)).iterdir()) == []


def test_drafts_are_seen_by_unit_and_foreign_names_are_not(tmp_path: Path) -> None:
    draft = make_draft(tmp_path)
    for name in ("unit-00004.bak", "unit-x", ".draft-unit-1", "notes.txt", ".nfs0001"):
        (tmp_path / name).mkdir()
    assert commit.drafts(tmp_path) == {draft.name: 4}
    assert commit.committed(tmp_path) == set()
    assert commit.committed(tmp_path / "absent") == set() and commit.drafts(tmp_path / "absent") == {}


def test_more_units_than_five_digits(tmp_path: Path) -> None:
    big = Unit(123_456, {})
    draft = commit.open_draft(tmp_path, commit.draft_name(big, 1, 0, 0))
    assert commit.drafts(tmp_path) == {draft.name: 123_456}
    commit.commit(draft, big, Counts(), Meter(), IDENTITY)
    assert commit.committed(tmp_path) == {123_456}


def test_sweep_fences_drafts_of_earlier_submissions_only(tmp_path: Path) -> None:
    old, same = make_draft(tmp_path, submission=1), make_draft(tmp_path, submission=2, worker=1)
    later = make_draft(tmp_path, submission=3)
    (tmp_path / ".trash-x").mkdir()
    commit.sweep(tmp_path, submission=2)
    assert not old.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([same.name, later.name])


def test_requeued_worker_sweeps_its_own_drafts_of_before(tmp_path: Path) -> None:
    own, others = make_draft(tmp_path, worker=1, restarts=0), make_draft(tmp_path, worker=2)
    commit.sweep(tmp_path, submission=1, worker=1)
    assert not own.exists() and others.exists()


def test_orphan_with_swept_draft_cannot_publish(tmp_path: Path) -> None:
    draft = make_draft(tmp_path)
    commit.sweep(tmp_path, submission=2)
    with pytest.raises(FileNotFoundError):
        publish(draft)
    assert os.listdir(tmp_path) == []


def test_orphan_swept_between_flush_and_rename_cannot_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, real = make_draft(tmp_path), os.rename

    def rename(source: Path, target: Path) -> None:
        if target == tmp_path / "unit-00004":
            monkeypatch.setattr(os, "rename", real)
            commit.sweep(tmp_path, submission=2)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(FileNotFoundError):
        publish(draft)
    assert os.listdir(tmp_path) == []


def test_everything_is_flushed_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and their folder reach the disk before the rename, and the rename before commit returns (ALICE)."""
    draft, seen = make_draft(tmp_path), []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        seen.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    publish(draft)
    assert seen == ["data.txt", "record.json", draft.name, "rename", tmp_path.name]


def test_rows_of_tables_and_arrays_are_recorded(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pa.table({"a": [1, 2, 3]}))
    np.save(tmp_path / "a.npy", np.zeros((0, 4), dtype=np.float16))
    np.save(tmp_path / "b.npy", np.float32(1))
    (tmp_path / "c.txt").write_text("a\nb\n")
    assert [commit.num_rows(tmp_path / name) for name in ("t.parquet", "a.npy", "b.npy", "c.txt")] == [3, 0, 0, None]
