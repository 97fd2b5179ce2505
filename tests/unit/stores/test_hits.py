"""The table of hits has one schema, with rows or without."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rag_hpc.stores.hits import hits_table


def test_columns_have_the_types_that_readers_rely_on() -> None:
    table = hits_table([("q", "bm25", 1, 2**40, "d#0-9", "d", 0.1)])
    assert table.schema == pa.schema(
        [
            ("query_id", pa.string()),
            ("method", pa.string()),
            ("rank", pa.int32()),
            ("ordinal", pa.int64()),
            ("chunk_id", pa.string()),
            ("doc_id", pa.string()),
            ("score", pa.float32()),
        ]
    )
    assert table.to_pylist()[0]["ordinal"] == 2**40
    assert table.to_pylist()[0]["score"] == pytest.approx(0.1)


def test_no_hits_have_the_same_schema() -> None:
    assert hits_table([]).num_rows == 0
    assert hits_table([]).schema == hits_table([("q", "m", 1, 1, "c", "d", 0.0)]).schema


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        hits_table([("q", "m", 1, 1, "c", "d", 0.0), ("q", "m", 1)])
