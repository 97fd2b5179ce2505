from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import races
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.core import fs
from rag_hpc.errors import DiskError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(json_values)
def test_canonical_json_comes_back_equal(value: object) -> None:
    data = fs.canonical_json(value)
    assert json.loads(data) == value
    assert data.endswith(b"\n") and data.count(b"\n") == 1


def test_canonical_json_does_not_depend_on_key_order() -> None:
    assert fs.canonical_json({"b": 1, "a": {"d": 2, "c": "ü"}}) == '{"a":{"c":"ü","d":2},"b":1}\n'.encode()


def test_file_name_that_is_not_utf8_survives_canonical_json() -> None:
    name = os.fsdecode(b"caf\xe9.html")
    data = fs.canonical_json({"path": name})
    data.decode("utf-8")
    assert os.fsencode(json.loads(data)["path"]) == b"caf\xe9.html"


def test_second_publisher_loses_and_changes_nothing(tmp_path: Path) -> None:
    assert fs.publish_file(tmp_path / "a", b"first")
    assert not fs.publish_file(tmp_path / "a", b"second, longer")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_overwrite_replaces_the_file(tmp_path: Path) -> None:
    fs.publish_file(tmp_path / "a", b"first")
    assert fs.publish_file(tmp_path / "a", b"second", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"second"


def test_remains_of_a_killed_publisher_are_never_written_into(tmp_path: Path) -> None:
    """Killed between link and unlink, the draft is a second name of the published file; ids of processes come again."""
    fs.publish_file(tmp_path / "a", b"first")
    draft = tmp_path / f".a.{os.uname().nodename}.{threading.get_native_id()}"
    os.link(tmp_path / "a", draft)
    assert not fs.publish_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert not draft.exists()


def test_two_processes_publish_each_file_once_and_whole(tmp_path: Path) -> None:
    won_x, won_y = races.race("files", tmp_path, 60)
    assert sorted([*won_x, *won_y]) == list(range(60))
    for number in range(60):
        assert (tmp_path / f"{number:03d}").read_bytes() == (b"x" if number in won_x else b"y") * races.SIZE
    assert not list(tmp_path.glob(".0*"))


def test_two_processes_publish_each_folder_once_and_whole(tmp_path: Path) -> None:
    won_x, won_y = races.race("folders", tmp_path, 60)
    assert sorted([*won_x, *won_y]) == list(range(60))
    for number in range(60):
        tag = "x" if number in won_x else "y"
        assert {p.name: p.read_text() for p in (tmp_path / f"{number:03d}").iterdir()} == {"a": tag, "b": tag}
    assert not list(tmp_path.glob(".draft*")) and not list(tmp_path.glob(".trash*"))


def test_exclusive_write_refuses_an_existing_file(tmp_path: Path) -> None:
    fs.write_durable(tmp_path / "a", b"1", exclusive=True)
    with pytest.raises(FileExistsError):
        fs.write_durable(tmp_path / "a", b"2", exclusive=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640  # less the umask


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    fs.write_durable(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_dropped_folder_is_moved_aside_before_it_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    (tmp_path / ".trash-draft.0").mkdir()
    (tmp_path / ".trash-draft.0" / "remains").touch()  # of a removal that was killed
    monkeypatch.setattr(fs.shutil, "rmtree", lambda *a, **k: None)
    fs.drop_dir(draft)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".trash-draft.0", ".trash-draft.1"]


def test_dropping_trash_or_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".trash-a" / "deep").mkdir(parents=True)
    fs.drop_dir(tmp_path / ".trash-a")
    fs.drop_dir(tmp_path / "never was")
    assert list(tmp_path.iterdir()) == []


def test_a_name_inside_an_open_folder_is_reported_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, fs.naming_disk(tmp_path / "run"):
        raise OSError(errno.EROFS, "Read-only file system", "manifest.json")  # as shutil.rmtree raises it
    assert str(caught.value).startswith(f"{tmp_path / 'run'}: the filesystem at /")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_full_disk_is_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskError, match=r"filesystem at /.*df -h .*rag-hpc retry") as caught:
        fs.publish_file(tmp_path / "a", b"data")
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_other_os_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), fs.naming_disk(tmp_path):
        (tmp_path / "absent").read_bytes()
