from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.core.hashing import hash_file
from rag_hpc.stores import tables


def write_rows(path: Path, num_rows: int, group_bytes: int = tables.ROW_GROUP_BYTES) -> None:
    with tables.TableWriter(path, {"id": "string", "body": "binary", "n": "int64"}, group_bytes) as writer:
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


def test_memory_is_bounded_by_row_groups(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", 100, 1000)
    with tables.TableWriter(tmp_path / "b", {"n": "int64"}, 1000) as numbers:
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
        "id": "b",
        "reason": "robots-denied",
        "detail": "Disallow: /",
    }


def test_nothing_rejected_writes_no_file(tmp_path: Path) -> None:
    assert tables.Rejects().write(tmp_path) == {} and list(tmp_path.iterdir()) == []
    empty = tables.table_of([], tables.REJECT_COLUMNS)
    assert len(empty) == 0 and empty.schema.names == ["id", "reason", "detail"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(alphabet="aé€😀", max_size=9)), max_size=30), st.booleans())
def test_columns_of_texts_and_bytes_are_what_arrow_makes_of_them(values: list[str | None], as_bytes: bool) -> None:
    kind, given_values = pa.string(), list(values)
    if as_bytes:
        kind, given_values = pa.binary(), [None if value is None else value.encode() for value in values]
    with tempfile.TemporaryDirectory() as folder:
        with tables.TableWriter(Path(folder) / "a", {"x": str(kind)}) as writer:
            for value in given_values:
                writer.add(value)
        expected = pa.table({"x": pa.array(given_values, kind)})
        assert tables.read_table(Path(folder) / "a") == expected


def test_writing_a_table_does_not_import_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag_hpc.stores import tables\n"
        "table = tables.table_of([('a', 'short', '')], tables.REJECT_COLUMNS)\n"
        f"tables.write_table(Path({str(tmp_path / 'a')!r}), table)\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
