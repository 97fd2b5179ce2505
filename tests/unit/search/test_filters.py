"""Filters: what they let through, and that every method finds the best of that and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.core.comm import Comm, SerialComm
from rag_hpc.errors import ConfigError
from rag_hpc.search import indexes, searcher
from rag_hpc.search.filters import allowed, check_filter
from rag_hpc.search.searcher import Found, Searcher, SearchSettings
from rag_hpc.stores.chunks import COLUMNS, ChunkStore
from rag_hpc.stores.shards import Effort, Kind
from rag_hpc.stores.vectors import VectorStore

TEXTS = ["the sorted function keeps equal items", "a listening socket", "sha256 digest", "the copytree function"]
DEPTH = 8


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)


def test_comparisons_are_joined_as_python_joins_them(chain: stagerun.Chain) -> None:
    chunks, rows = ChunkStore(chain.out["chunk"]), chain.table("chunk", "chunks.parquet")
    some = rows[3]["doc_id"]
    wanted: dict[str, Callable[[dict[str, Any]], bool]] = {
        f"doc_id == {some!r}": lambda r: r["doc_id"] == some,
        "num_tokens > 40 and not start == 0": lambda r: r["num_tokens"] > 40 and r["start"] != 0,
        f"doc_id in [{some!r}, 'other'] or num_tokens <= 30": lambda r: r["doc_id"] == some or r["num_tokens"] <= 30,
        "title not in ['', 'x'] and (end >= 200 or lang != 'en')": lambda r: (
            r["title"] not in ("", "x") and (r["end"] >= 200 or r["lang"] != "en")
        ),
    }
    for text, want in wanted.items():
        want_N = [want(row) for row in rows]
        assert any(want_N) and not all(want_N), text
        assert allowed(chunks, text).tolist() == want_N, text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lang == 3", "must compare lang with a text in quotes"),
        ("num_tokens > '3'", "must compare num_tokens with a whole number"),
        ("num_tokens > 9999999999999999999999", "must compare num_tokens with a whole number"),
        ("lang in 'en'", "`in` with a list"),
        ("lang == 'en' and", "cannot be read"),
        ("__import__('os').system('true')", "compares no field with a value"),
        ("lang", "compares no field"),
        ("'en' == lang", "compares no field"),
        ("1 < num_tokens < 3", "compares no field"),
        ("lang is 'en'", "no comparison that it knows"),
        ("lang == f'{1}'", "a text in quotes"),
        ("not " * 3000 + "lang == 'en'", "at most 4096"),
        ("(" * 1000 + "lang == 'en'" + ")" * 1000, "cannot be read"),
    ],
)
def test_what_is_no_filter_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_filter(text)
    assert told in str(error.value)
    with pytest.raises(ConfigError):
        SearchSettings(filter=text)


def test_a_field_that_passages_lack_is_named_with_those_they_have(chain: stagerun.Chain) -> None:
    SearchSettings(filter="tenant == 'x'")  # whether there is one, the chunks tell
    for refuse in (
        lambda text: check_filter(text, COLUMNS),
        lambda text: allowed(ChunkStore(chain.out["chunk"]), text),
    ):
        with pytest.raises(
            ConfigError, match=r"no field 'tenant'; they have chunk_id, .* stage.chunk.fields={tenant: "
        ):
            refuse("lang == 'en' and tenant == 'x'")


def test_a_filter_that_lets_nothing_through_is_an_error(chain: stagerun.Chain) -> None:
    with pytest.raises(ConfigError, match="no passage is let through"):
        allowed(ChunkStore(chain.out["chunk"]), "lang == 'xx'")


def _found(chain: stagerun.Chain, comm: Comm, mask: np.ndarray, queries: np.ndarray, folder: Path) -> Found:
    out, scratch = chain.out, folder / f"{comm.world_size}-{comm.rank}"
    scratch.mkdir()
    settings = SearchSettings(depth=DEPTH, num_probes=4)
    one = Searcher(out["lexical"], out["encode"], out["vectors.build"], settings, comm, scratch)
    one.restrict(mask)
    return one.search(TEXTS, queries)


@pytest.mark.parametrize(("share", "index"), [(0.01, False), (0.1, True), (0.5, True)])
def test_filtered_hits_are_the_best_of_what_is_let_through(
    share: float,
    index: bool,
    chain: stagerun.Chain,
    queries: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = VectorStore(chain.out["encode"])
    rows, num = store.rows(0, len(store)), len(store)
    mask = np.zeros(num, dtype=bool)
    mask[np.random.default_rng(1).permutation(num)[: max(2, int(share * num))]] = True
    (tmp_path / "whole").mkdir()
    parts = chain.out["lexical"], chain.out["encode"], None
    every = Searcher(*parts, SearchSettings(depth=num), SerialComm(), tmp_path / "whole")
    lexical = every.search(TEXTS, queries).hits["bm25"][1]
    if index:
        monkeypatch.setattr(searcher, "UP_TO", 0)  # or so few would be searched exactly
    kept = np.flatnonzero(mask)
    want = kept[exact_topk(queries, rows[kept], min(DEPTH, len(kept)))[1]]
    for world_size in (1, 3):
        found, *_ = stagerun.on_ranks(world_size, lambda comm: _found(chain, comm, mask, queries, tmp_path))
        for method in ("dense", "ann"):
            assert found.hits[method][1][:, : want.shape[1]].tolist() == want.tolist(), method
            assert (found.hits[method][1][:, want.shape[1] :] == -1).all()
        for row, ids in enumerate(lexical):
            best = [one for one in ids.tolist() if one >= 0 and mask[one]][:DEPTH]
            assert found.hits["bm25"][1][row].tolist() == best + [-1] * (DEPTH - len(best))
        assert mask[found.hits["fused"][1][found.hits["fused"][1] >= 0]].all()


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_index_finds_only_what_is_let_through(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 16)).astype(np.float16)
    centroids = rows[:8].astype(np.float32)
    trained = indexes.template(kind, centroids, rows)
    index = indexes.empty_index(kind, centroids if trained is None else trained)
    indexes.add(index, rows, np.arange(len(rows)))
    mask = rng.random(len(rows)) < 0.05
    held = indexes.Shards([index], Effort(kind=kind, num_probes=8, ef_search=400))
    queries = rng.standard_normal((20, 16)).astype(np.float32)
    ids = held.shortlist(queries, 60, mask)[1]
    assert mask[ids[ids >= 0]].all() and (ids >= 0).sum() == 20 * min(60, int(mask.sum()))
    assert not mask[held.shortlist(queries, 60)[1]].all()
    want = np.flatnonzero(mask)[exact_topk(queries, rows[mask], 10)[1]]
    both = [set(one) & set(other) for one, other in zip(want.tolist(), ids.tolist(), strict=True)]
    assert np.mean([len(one) for one in both]) >= 9
