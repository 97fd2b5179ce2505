from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_hpc.core import tables
from rag_hpc.core.hashing import hash_file


def write_rows(path: Path, num_rows: int) -> None:
    with tables.TableWriter(path, {"id": "string", "body": "binary", "n": "int64"}) as writer:
        for number in range(num_rows):
            writer.add(f"id-{number}", b"x" * 10, number)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", 5)
    assert tables.read_table(tmp_path / "a", ["n"]).column("n").to_pylist() == [0, 1, 2, 3, 4]
    assert tables.read_table(tmp_path / "a").schema.names == ["id", "body", "n"]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_rows(tmp_path / name, 100)
        tables.write_table(tmp_path / f"t{name}", pa.table({"x": [1, 2]}).replace_schema_metadata({"by": name}))
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")
    assert hash_file(tmp_path / "ta") == hash_file(tmp_path / "tb")


def test_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", 0)
    assert tables.read_table(tmp_path / "a").schema.names == ["id", "body", "n"]
    assert len(tables.read_table(tmp_path / "a")) == 0


def test_memory_is_bounded_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 1000)
    write_rows(tmp_path / "a", 100)
    with tables.TableWriter(tmp_path / "b", {"n": "int64"}) as numbers:
        for number in range(1000):
            numbers.add(number)
    assert pq.ParquetFile(tmp_path / "a").num_row_groups == 3
    assert pq.ParquetFile(tmp_path / "b").num_row_groups == 8


def test_rejects_are_counted_by_reason_and_kept(tmp_path: Path) -> None:
    rejects = tables.Rejects()
    rejects.add("a", "short")
    rejects.add("b", "robots-denied", "Disallow: /")
    rejects.add("c", "short")
    assert rejects.write(tmp_path) == {"robots-denied": 1, "short": 2}
    assert tables.read_table(tmp_path / tables.REJECTS).to_pylist()[1] == {
        "id": "b", "reason": "robots-denied", "detail": "Disallow: /"}


def test_nothing_rejected_writes_no_file(tmp_path: Path) -> None:
    assert tables.Rejects().write(tmp_path) == {} and list(tmp_path.iterdir()) == []
    assert len(tables.reject_rows([])) == 0 and tables.reject_rows([]).schema.names == ["id", "reason", "detail"]
