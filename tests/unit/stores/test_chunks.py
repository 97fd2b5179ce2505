from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest_of

from rag_hpc.stores.chunks import CHUNKS, ChunkStore, split_evenly
from rag_hpc.stores.tables import write_table

SIZES = [0, 3, 0, 0, 2, None, 1, 0]  # rows of each unit's file; None = the unit has no such file


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    total = 0
    for index, size in enumerate(SIZES):
        folder = tmp_path / f"units/unit-{index:05d}"
        folder.mkdir(parents=True)
        texts = [f"text {total + row}" for row in range(size or 0)]
        if size is not None:
            headings = [f"title of {text}" if text.endswith("3") else "" for text in texts]
            write_table(
                folder / CHUNKS,
                pa.table(
                    {
                        "text": pa.array(texts, pa.string()),
                        "heading": pa.array(headings, pa.string()),
                        "start": pa.array(range(size), pa.int64()),
                    }
                ),
            )
        total += size or 0
    return ChunkStore(manifest_of(tmp_path, "chunk"))


def test_ordinals_count_rows_over_units_with_empty_files_between(store: ChunkStore) -> None:
    assert len(store) == 6
    assert store.rows([5, 0, 3], ["text", "start"]) == [
        {"text": "text 5", "start": 0},
        {"text": "text 0", "start": 0},
        {"text": "text 3", "start": 0},
    ]
    assert store.column("text") == [f"text {i}" for i in range(6)]


def test_indexed_texts_of_every_range_begin_with_their_heading(store: ChunkStore) -> None:
    wanted = ["text 0", "text 1", "text 2", "title of text 3\ntext 3", "text 4", "text 5"]
    for start in range(7):
        for stop in range(start, 7):
            assert store.indexed_texts(start, stop) == wanted[start:stop]


def test_ranges_say_where_rows_lie(store: ChunkStore) -> None:
    assert [(r.path.parent.name, r.start, r.stop, r.first) for r in store.ranges(2, 6)] == [
        ("unit-00001", 2, 3, 2),
        ("unit-00004", 0, 2, 3),
        ("unit-00006", 0, 1, 5),
    ]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 300))
def test_even_split_covers_all_and_differs_by_one(num_rows: int, num_parts: int) -> None:
    parts = split_evenly(num_rows, num_parts)
    sizes = [b - a for a, b in parts]
    assert len(parts) == min(num_parts, num_rows)
    assert sum(sizes) == num_rows and all(size > 0 for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert all(left[1] == right[0] for left, right in zip(parts, parts[1:], strict=False))
