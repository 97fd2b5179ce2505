"""The kind of index that `auto` takes, and what it says of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.search.choose import BY_SPEED, GIB, Choice, choose, size_of
from rag_hpc.stores.shards import IndexName, Kind

MILLION: dict[str, Any] = {"num_rows": 1_000_000, "dims": 384, "num_shards": 4, "mem_gib": 0.0, "recall": 0.95}


def chosen(**changes: Any) -> Choice:
    return choose(IndexName.auto, **{**MILLION, **changes})


def test_names_are_the_kinds_and_auto() -> None:
    assert [*Kind.__members__, "auto"] == list(IndexName.__members__)


def test_fastest_is_taken_where_memory_has_no_limit() -> None:
    found = chosen()
    assert found.kind is BY_SPEED[0]
    assert "1,000,000 vectors of 384, recall 0.95, no limit of memory in 4 shards" in found.text()


def test_few_rows_are_searched_exactly() -> None:
    assert chosen(num_rows=900).kind is Kind.flat


def test_what_does_not_fit_is_passed_over_and_said() -> None:
    rows = 1_000_000 * 384 * 2
    sizes = {kind: size_of(kind, 1_000_000, 384, 1024, 4).total + rows for kind in BY_SPEED}
    for kind in BY_SPEED:
        limit = sizes[kind] / GIB / 4 * 1.001
        found = chosen(mem_gib=limit)
        assert sizes[found.kind] <= limit * GIB * 4
        faster = BY_SPEED[: BY_SPEED.index(found.kind)]
        assert all(sizes[other] > limit * GIB * 4 for other in faster)
        assert all(other.value in found.why for other in faster)


def test_where_nothing_fits_the_number_of_shards_is_said() -> None:
    with pytest.raises(ConfigError, match=r"index=auto: .* set stage.vectors.num_shards=(\d+)") as told:
        chosen(mem_gib=0.1)
    enough = int(str(told.value).rsplit("=", 1)[1])
    assert chosen(mem_gib=0.1, num_shards=enough + 1).kind in BY_SPEED


def test_recall_of_almost_one_wants_exact_codes() -> None:
    assert chosen(recall=0.9999).kind is Kind.ivf_fp16


def test_what_is_asked_for_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    found = choose(IndexName.ivf_sq8, **MILLION)
    assert found.kind is Kind.ivf_sq8 and "as asked for" in found.text()
    assert dataclasses.astuple(found.size) == (384_000_000, 8_000_000, found.size.overhead)
    assert f"{found.size.total:,} bytes" in found.text()
