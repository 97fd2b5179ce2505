"""Parquet tables as a source."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import ReadContext
from rag_hpc.sources.files import parquet
from rag_hpc.sources.files.parquet import ParquetConfig, ParquetSource
from rag_hpc.stores.page import Page, Reject

CONTEXT = ReadContext(shared=Path(), should_stop=lambda: False, sleep=lambda wait: None)


def corpus(path: Path, **changes: Any) -> ParquetConfig:
    return ParquetConfig(path=str(path), **changes)


def read_all(config: ParquetConfig) -> list[Page | Reject]:
    source = ParquetSource()
    parts = source.split(config, Path())
    assert parts == json.loads(json.dumps(source.split(config, Path())))
    return [item for part in parts for item in source.read(part, config, CONTEXT)]


def ids(items: list[Page | Reject]) -> list[str]:
    return [item.doc_id if isinstance(item, Page) else f"{item.reason}:{item.id}" for item in items]


def write(path: Path, rows: list[dict[str, Any]], group: int = 3) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def test_rows_become_pages_by_field_names_and_dotted_paths(tmp_path: Path) -> None:
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    row = {
        "uid": 7,
        "content": {"body": "text", "raw": b"x"},
        "meta": {"url": "http://x/y.md", "n": 1},
        "head.line": "T",
        "lang": "en",
        "score": 0.5,
        "when": when,
        "tags": ["a"],
        "blob": b"\xff",
    }
    write(tmp_path / "a.parquet", [row])
    found = read_all(
        corpus(tmp_path, id_field="uid", text_field="content.body", url_field="meta.url", title_field="head.line")
    )
    assert found == [
        Page(
            doc_id="7",
            url="http://x/y.md",
            body=b"text",
            content_type="text/markdown",
            charset="utf-8",
            title="T",
            meta={"lang": "en", "score": 0.5},
        )
    ]


def test_a_missing_text_field_is_said_when_the_run_is_planned(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"damaged")
    write(tmp_path / "c.parquet", [{"id": "x", "content": {"body": "t"}, "body_text": "t"}])
    with pytest.raises(
        ConfigError,
        match=r"c\.parquet: no field 'body_txt' \(corpus.text_field\) and none named "
        r"'html'; there are body_text, content, content\.body, id; "
        r"did you mean corpus.text_field=body_text\?",
    ):
        ParquetSource().split(corpus(tmp_path, text_field="body_txt"), Path())
    with pytest.raises(ConfigError, match=r"no field 'zz' .*; set corpus.text_field to one of them"):
        ParquetSource().split(corpus(tmp_path, text_field="zz"), Path())
    write(tmp_path / "b.parquet", [{"html": "<p>t"}])
    assert ids(read_all(corpus(tmp_path))) == ["malformed:a.parquet", "b.parquet#0", "no-text:c.parquet#0"]


def test_ids_numbered_anew_in_each_file_are_refused_when_the_run_is_planned(tmp_path: Path) -> None:
    for name, words in (("a", "one"), ("b", "two")):
        write(tmp_path / f"{name}.parquet", [{"id": number, "text": f"{words} {number}"} for number in range(4)])
    with pytest.raises(ConfigError, match=r"a\.parquet and b\.parquet begin .* the same id, '0'.*corpus\.id_field= "):
        ParquetSource().split(corpus(tmp_path), Path())
    assert ids(read_all(corpus(tmp_path, id_field="")))[3:5] == ["a.parquet#3", "b.parquet#0"]
    assert len(read_all(corpus(tmp_path, max_pages=4))) == 4  # the second file is not in the plan
    write(tmp_path / "b.parquet", [{"id": 0, "text": "one 0"}, {"id": 9, "text": "x"}])  # a copy is dedup's
    assert ids(read_all(corpus(tmp_path)))[3:] == ["3", "0", "9"]
    (tmp_path / "b.parquet").write_bytes(b"damaged")
    assert ids(read_all(corpus(tmp_path)))[4:] == ["malformed:b.parquet"]


def test_each_bad_row_is_rejected_with_its_position(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        [
            {"id": "a", "text": b"bytes"},
            {"id": None, "text": b"\xff"},
            {"id": None, "text": None},
            {"id": "", "text": b"x" * 101},
            {"id": None, "text": b"ok"},
        ],
    )
    write(tmp_path / "b.parquet", [{"id": True, "text": "x"}])
    write(tmp_path / "c.parquet", [{"id": "x"}])
    assert ids(read_all(corpus(tmp_path, max_page_bytes=100))) == [
        "a",
        "not-utf8:a.parquet#1",
        "no-text:a.parquet#2",
        "too-large:a.parquet#3",
        "a.parquet#4",
        "bad-id:b.parquet#0",
        "no-text:c.parquet#0",
    ]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 1000])
def test_parts_are_whole_row_groups_and_caps_are_exact(tmp_path: Path, size: int) -> None:
    for name, count in (("a", 8), ("b", 0), ("c", 4)):
        table = pa.table({"text": pa.array([f"{name}{n}" for n in range(count)], pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=3)
    config = corpus(tmp_path, pages_per_unit=size)
    expected = [*(f"a.parquet#{n}" for n in range(8)), *(f"c.parquet#{n}" for n in range(4))]
    assert ids(read_all(config)) == expected
    parts = ParquetSource().split(config, tmp_path)
    counts = [sum(item["rows"] for item in part["items"]) for part in parts]
    assert all(count >= size for count in counts[:-1])
    assert len(parts) == {1: 5, 3: 4, 4: 3, 7: 2, 1000: 1}[size]
    for cap in (1, 3, 5, 8, 9, 12, 13):
        assert ids(read_all(corpus(tmp_path, pages_per_unit=size, max_pages=cap))) == expected[:cap]


def test_damaged_files_are_rejects_and_changed_ones_errors(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", [{"text": "x" * 50, "id": str(n)} for n in range(6)])
    body = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "cut.parquet").write_bytes(body[:-20])
    (tmp_path / "hole.parquet").write_bytes(body[:4] + b"\xff" * 40 + body[44:])
    items = read_all(corpus(tmp_path))
    assert ids(items)[:2] == ["malformed:bad.parquet", "malformed:cut.parquet"]
    assert ids(items)[2:8] == [str(n) for n in range(6)]
    assert ids(items)[8:] == ["malformed:hole.parquet#0", "3", "4", "5"]
    part = ParquetSource().split(corpus(tmp_path), tmp_path)[0]
    write(tmp_path / "good.parquet", [{"text": "y"}])
    with pytest.raises(InputError, match="changed since"):
        list(ParquetSource().read(part, corpus(tmp_path), CONTEXT))


def test_big_row_groups_are_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2 << 20)
    rows = [{"text": f"{n} " + "word " * 2000} for n in range(4_000)]  # 40 MB
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=4_000, use_dictionary=False)
    del rows
    config = corpus(tmp_path)
    (part,) = ParquetSource().split(config, tmp_path)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peak = count = 0
    for _ in ParquetSource().read(part, config, CONTEXT):
        count += 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4_000 and peak < 15_000_000 and python_peak < 15_000_000


def test_a_table_that_unpacks_to_far_more_than_text_can_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FREE_BYTES", 1 << 24)
    big = pa.array(["x" * 1_000_000] * 20, pa.string())
    pq.write_table(pa.table({"text": big}), tmp_path / "a.parquet", use_dictionary=False, compression="zstd")
    assert ids(read_all(corpus(tmp_path))) == ["bomb:a.parquet#0"]


def test_html_in_bytes_is_a_page_in_the_charset_that_it_declares(tmp_path: Path) -> None:
    koi8 = "<meta charset=koi8-r><p>\u0433\u0430\u0432\u0430\u043d\u044c".encode("koi8-r")
    rows = [{"id": "a", "html": koi8, "text": None}, {"id": "b", "html": "<p>Gr\u00fc\u00dfe".encode(), "text": "x"}]
    rows += [{"id": "c", "html": None, "text": "words"}, {"id": "d", "html": b"\x93<p>quoted\x94", "text": None}]
    for kind in (pa.binary(), pa.large_binary()):
        schema = pa.schema([("id", pa.string()), ("html", kind), ("text", pa.string())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "a.parquet")
        found = [page for page in read_all(corpus(tmp_path)) if isinstance(page, Page)]
        assert [page.body for page in found] == [koi8, rows[1]["html"], b"words", rows[3]["html"]]
        assert [(page.content_type, page.charset) for page in found] == [
            ("text/html", "koi8-r"),
            ("text/html", "utf-8"),
            ("text/plain", "utf-8"),
            ("text/html", "utf-8"),
        ]
    assert ids(read_all(corpus(tmp_path, max_page_bytes=20))) == ["too-large:a.parquet#0", "b", "c", "d"]
