"""From hits to passages: the last ranking counts, in the order of the questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stagerun
from manifests import manifest_of

from rag_hpc.core.manifest import Manifest
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.hits import hits_table
from rag_hpc.stores.passages import ranked, read_passages
from rag_hpc.stores.tables import write_table


@pytest.fixture(scope="module")
def front() -> stagerun.Chain:
    return stagerun.chain_or_skip(stagerun.front_chain)


def _ranking(folder: Path, stage: str, units: dict[int, list[tuple[Any, ...]]]) -> Manifest:
    for index, rows in units.items():
        unit_dir = folder / stage / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        write_table(unit_dir / "hits.parquet", hits_table(rows))
    return manifest_of(folder / stage, stage)


def _row(query_id: str, method: str, rank: int, ordinal: int) -> tuple[Any, ...]:
    return query_id, method, rank, ordinal, "c", "d", 1.0


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Manifest]:
    import pyarrow as pa

    unit_dir = tmp_path / "queries" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    names = ["b", "a", "c"]
    write_table(unit_dir / "queries.parquet", pa.table({"query_id": names, "text": ["?"] * 3, "answers": ["[]"] * 3}))
    queries = manifest_of(tmp_path / "queries", "retrieve.queries")
    first = [_row("a", "fused", 2, 20), _row("a", "fused", 1, 9), _row("a", "dense", 1, 5), _row("b", "fused", 1, 7)]
    found = _ranking(tmp_path, "search", {0: first, 2: [_row("c", "fused", 1, 30)]})  # unit 1 is quarantined
    return {"retrieve.queries": queries, "retrieve.search": found}


def test_fused_hits_come_by_rank_and_questions_in_their_own_order(asked: dict[str, Manifest]) -> None:
    found = ranked(asked, 0, 5)
    assert [(a.query_id, a.ordinals) for a in found] == [("b", [7]), ("a", [9, 20])]
    assert [a.ordinals for a in ranked(asked, 0, 1)] == [[7], [9]]


def test_positions_count_the_units_that_are_there(asked: dict[str, Manifest]) -> None:
    assert [(a.query_id, a.ordinals) for a in ranked(asked, 1, 5)] == [("c", [30])]


def test_reranked_hits_go_before_fused_ones(asked: dict[str, Manifest], tmp_path: Path) -> None:
    asked["rerank"] = _ranking(tmp_path, "rerank", {1: [_row("c", "reranked", 1, 31)]})
    assert [a.ordinals for a in ranked(asked, 1, 5)] == [[31]]
    assert [a.ordinals for a in ranked(asked, 0, 5)] == [[7], [9, 20]]  # its reranking is quarantined


def test_passages_come_in_the_order_asked_for(front: stagerun.Chain) -> None:
    rows = front.table("chunk", "chunks.parquet")
    passages = read_passages(ChunkStore(front.out["chunk"]), [40, 0, 99, 0])
    assert [p.chunk_id for p in passages] == [rows[i]["chunk_id"] for i in (40, 0, 99, 0)]
    assert (passages[0].doc_id, passages[0].title, passages[0].text) == tuple(
        rows[40][name] for name in ("doc_id", "title", "text")
    )
