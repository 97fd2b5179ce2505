from __future__ import annotations

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.stores.extsort import Sorter, sort_rows

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), max_size=700)


def sorter(folder: Path, memory_bytes: int) -> Sorter:
    return Sorter(folder / "runs", [np.uint64, np.int64], memory_bytes)


def joined(blocks: list[list[np.ndarray]]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for keys, docs in blocks for a, b in zip(keys, docs, strict=True)]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 300), st.sampled_from([1, 5000, 1 << 20]))
def test_rows_come_back_as_a_sort_in_memory_gives_them(rows: list[tuple[int, int]], part: int, memory: int) -> None:
    with TemporaryDirectory() as folder:
        ours = Sorter(Path(folder) / "one", [np.uint64, np.int64], memory)
        without = Sorter(Path(folder) / "other", [np.uint64, np.int64], memory)
        for start in range(0, len(rows), part):
            keys, docs = (np.array([row[i] for row in rows[start : start + part]]) for i in (0, 1))
            ours.add(keys, docs)
            without.add(keys, docs)
        assert joined(list(ours.blocks())) == sorted(rows)
        assert joined(list(without.unique_blocks())) == sorted(set(rows))
        assert list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("distinct", [1, 50, 1 << 62])
def test_many_rows_agree_with_numpy_on_any_budget(tmp_path: Path, distinct: int) -> None:
    rng = np.random.default_rng(distinct % 1000)
    keys, docs = rng.integers(0, distinct, 50_000).astype(np.uint64), rng.integers(-(1 << 62), 1 << 62, 50_000)
    order = np.lexsort((docs, keys))
    for memory in (1 << 12, 1 << 17, 1 << 26):
        found = sorter(tmp_path, memory)
        for start in range(0, len(keys), 9_999):
            found.add(keys[start : start + 9_999], docs[start : start + 9_999])
        blocks = list(found.blocks())
        np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), keys[order])
        np.testing.assert_array_equal(np.concatenate([block[1] for block in blocks]), docs[order])
        assert len(blocks) == 1 or memory < 1 << 26


def test_memory_is_that_of_the_budget_whatever_the_number_of_rows(tmp_path: Path) -> None:
    budget, rng = 1 << 19, np.random.default_rng(0)
    tracemalloc.start()
    try:
        found = sorter(tmp_path, budget)
        for _ in range(40):
            found.add(rng.integers(0, 1 << 62, 5_000).astype(np.uint64), rng.integers(0, 9, 5_000))
        num, last = 0, -1
        for keys, _ in found.blocks():
            assert int(keys[0]) >= last
            num, last = num + len(keys), int(keys[-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num == 200_000
    assert peak < 1.5 * budget, peak  # the rows themselves are 3.2 MB


def test_a_row_reaches_the_disk_at_most_once(tmp_path: Path) -> None:
    found, sizes = sorter(tmp_path, 1 << 14), []
    for start in range(0, 20_000, 1000):
        found.add(np.arange(start, start + 1000), np.zeros(1000))
    for _ in found.blocks():
        sizes.append((tmp_path / "runs").stat().st_size)
    assert set(sizes) == {20_000 * 16}


def test_blocks_stop_early_without_litter(tmp_path: Path) -> None:
    found = sorter(tmp_path, 1)
    found.add(np.arange(1000), np.arange(1000))
    blocks = found.blocks()
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_one_column_is_sorted_too() -> None:
    assert sort_rows([np.array([3, 1, 2])])[0].tolist() == [1, 2, 3]
    assert sort_rows([np.array([], dtype=np.int64)])[0].tolist() == []
