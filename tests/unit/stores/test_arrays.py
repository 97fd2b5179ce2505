from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.errors import CorruptOutput
from rag_hpc.stores.arrays import ArrayFile, ArrayWriter

PAIR = np.dtype([("first", "<i8"), ("near", "?")])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.sampled_from([None, 1, 3]), st.data())
def test_rows_written_bit_by_bit_are_what_numpy_saves_and_read_by_range(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], width: int | None, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    whole = np.arange(sum(sizes) * (width or 1), dtype=np.int64)
    whole = whole if width is None else whole.reshape(-1, width)
    with ArrayWriter(path, np.int64, width) as writer:
        for part in np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []:
            writer.add(part)
    np.save(path.with_name("b.npy"), whole)
    assert path.read_bytes() == path.with_name("b.npy").read_bytes()
    file = ArrayFile(path)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    np.testing.assert_array_equal(file.rows(start, stop), whole[start:stop])
    assert (len(file), file.shape, writer.num_rows) == (len(whole), whole.shape, len(whole))


def test_records_are_read_too(tmp_path: Path) -> None:
    rows = np.array([(7, True), (9, False)], dtype=PAIR)
    np.save(tmp_path / "a.npy", rows)
    assert ArrayFile(tmp_path / "a.npy").rows(1, 2).tolist() == [(9, False)]


def test_bisection_counts_the_rows_before_a_value(tmp_path: Path) -> None:
    column = np.sort(np.random.default_rng(0).integers(-20, 20, 100))
    np.save(tmp_path / "a.npy", np.stack([np.zeros(100, np.int64), column], axis=1))
    file = ArrayFile(tmp_path / "a.npy")
    assert [file.rank_of(value, 1) for value in range(-25, 25)] == [
        int(np.searchsorted(column, value)) for value in range(-25, 25)
    ]


def test_cut_file_and_foreign_order_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(CorruptOutput, match="it ends before"):
        ArrayFile(tmp_path / "a.npy").rows(8, 10)
    np.save(tmp_path / "b.npy", np.asfortranarray(np.ones((3, 2))))
    with pytest.raises(CorruptOutput, match="C order"):
        ArrayFile(tmp_path / "b.npy")
    (tmp_path / "c.npy").write_bytes(b"something else")
    with pytest.raises(CorruptOutput, match=r"c\.npy: not an array"):
        ArrayFile(tmp_path / "c.npy")
