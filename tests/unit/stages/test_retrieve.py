"""retrieve: the hits of shards and ranks are byte for byte those of one index in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun

from rag_hpc.core.comm import Comm
from rag_hpc.core.fs import read_json
from rag_hpc.core.unit import Counts
from rag_hpc.errors import ConfigError
from rag_hpc.search import exact
from rag_hpc.stages.registry import make_stage
from rag_hpc.stages.retrieve import SHARDS_ASKED, RetrieveConfig, search_settings
from rag_hpc.stores.hits import Method
from rag_hpc.stores.shards import effort_of
from rag_hpc.stores.tables import read_table
from rag_hpc.stores.vectors import VectorStore

HITS = "hits.parquet"


@pytest.fixture(scope="module")
def one_shard(chain: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> stagerun.Chain:
    """The chain with a single Lucene index in place of four shards, and no vector index: the baseline."""
    folder = tmp_path_factory.mktemp("one-shard")
    found = chain.fork(folder, tuple(n for n in stagerun.STAGES if not n.startswith("vectors") and n != "evaluate"))
    found.out["lexical"] = chain.again("lexical", folder, num_shards=1)
    return found


def _bytes(chain: stagerun.Chain, name: str = HITS) -> list[bytes]:
    return [path.read_bytes() for path in chain.out["retrieve.search"].files(name)]


def _ids(rows: list[dict[str, Any]], method: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(row["query_id"], []).append(row["ordinal"])
    return found


def test_four_lexical_shards_give_the_bytes_of_one_index(chain: stagerun.Chain, one_shard: stagerun.Chain) -> None:
    four = _bytes(chain)
    one_shard.run("retrieve.search")
    assert len(one_shard.out["lexical"].units) == 1 and len(chain.out["lexical"].units) == 4
    assert _bytes(one_shard) == four
    assert one_shard.out["retrieve.search"].files("ann.parquet") == []


@pytest.mark.parametrize(
    ("world_size", "division"), [(1, "documents"), (3, "documents"), (6, "documents"), (3, "lists"), (6, "lists")]
)
def test_ranks_give_the_bytes_of_one_process(
    world_size: int, division: str, chain: stagerun.Chain, tmp_path: Path
) -> None:
    # 4 lexical shards, 3 vector shards and 157 rows over 3 ranks are uneven; of 6 ranks some hold no shard
    inputs = {n: m for n, m in chain.out.items() if n in make_stage("retrieve.search", {}).needs or "vectors" in n}
    settings = {**chain.settings["retrieve.search"], "divided_by": division}
    out = stagerun.run_on_ranks("retrieve.search", settings, inputs, tmp_path, world_size)
    units = chain.out["retrieve.search"].units
    for name in (HITS, "ann.parquet"):
        ours = [(out / f"unit-{unit['index']:05d}" / name).read_bytes() for unit in units]
        assert ours == _bytes(chain, name)
    assert not list((tmp_path / "rank-1").glob("*/*"))


def test_records_say_how_many_ranks_a_query_asked_of_an_index_divided_by_lists(
    chain: stagerun.Chain, tmp_path: Path
) -> None:
    settings = {**chain.settings["retrieve.search"], "divided_by": "lists", "num_probes": 2}

    def rank(comm: Comm) -> Counts:
        stage, ctx = make_stage("retrieve.search", settings), stagerun.context(chain.out, tmp_path, comm)
        stage.setup(ctx)
        (out := tmp_path / f"out-{comm.rank}").mkdir()
        return stage.run(stage.plan(chain.out, tmp_path)[0], out, ctx)

    first, *_ = stagerun.on_ranks(3, rank)
    assert 1 <= first.timings[SHARDS_ASKED] <= 2
    assert SHARDS_ASKED not in first.extra  # a manifest must not depend on the number of ranks


def test_dense_hits_are_those_of_brute_force(chain: stagerun.Chain) -> None:
    store = VectorStore(chain.out["encode"])
    vectors = store.rows(0, len(store)).astype(np.float64)
    queries = np.load(chain.out["retrieve.queries"].files("vectors.npy")[0]).astype(np.float64)
    names = [row["query_id"] for row in chain.table("retrieve.queries", "queries.parquet")]
    found = _ids(chain.table("retrieve.search", HITS), "dense")
    for name, query in zip(names, queries, strict=True):
        scores = (vectors @ query).astype(np.float32)
        assert found[name] == np.lexsort((np.arange(len(scores)), -scores))[:20].tolist()


def test_fused_hits_are_ranked_by_weighted_standard_scores(chain: stagerun.Chain, tmp_path: Path) -> None:
    rows = stagerun.rows_of(chain.again("retrieve.search", tmp_path, dense_weight=0.6), HITS)
    for name, got in _ids(rows, "fused").items():
        sums: dict[int, float] = {}
        lists = {
            method: {row["ordinal"]: row["score"] for row in rows if (row["query_id"], row["method"]) == (name, method)}
            for method in ("bm25", "dense")
        }
        for method, weight in (("bm25", 0.4), ("dense", 0.6)):
            given = np.array([*lists[method].values()] + [0.0] * (20 - len(lists[method])))
            for ordinal in {*lists["bm25"], *lists["dense"]}:
                score = lists[method].get(ordinal, given.min())
                sums[ordinal] = sums.get(ordinal, 0.0) + weight * (score - given.mean()) / (given.std() or 1.0)
        assert got == sorted(sums, key=lambda o: (-np.float32(sums[o]), o))[:20]


def test_words_weigh_more_for_a_query_whose_words_a_passage_has(chain: stagerun.Chain, tmp_path: Path) -> None:
    hits = {
        weight: chain.again("retrieve.search", tmp_path / str(weight), dense_weight=weight) for weight in (0.5, 0.8)
    }
    fused = {weight: _ids(stagerun.rows_of(found, HITS), "fused") for weight, found in hits.items()}
    mine = _ids(chain.table("retrieve.search", HITS), "fused")
    assert mine["nobody"] == fused[0.8]["nobody"]  # no word is known
    assert [name for name in mine if mine[name] == fused[0.5][name] != fused[0.8][name]]


def test_approximate_hits_find_what_exact_search_finds(chain: stagerun.Chain) -> None:
    wanted = _ids(chain.table("retrieve.search", HITS), "dense")
    approximate = _ids(chain.table("retrieve.search", "ann.parquet"), "ann")
    shares = [len(set(wanted[q][:10]) & set(approximate[q][:10])) / 10 for q in wanted]
    assert np.mean(shares) >= 0.9 and set(approximate) == set(wanted)
    scores = {
        (r["query_id"], r["ordinal"]): r["score"]
        for r in chain.table("retrieve.search", HITS)
        if r["method"] == "dense"
    }
    for row in chain.table("retrieve.search", "ann.parquet"):
        assert row["score"] == scores.get((row["query_id"], row["ordinal"]), row["score"])


def test_rows_are_ranked_and_name_the_chunk_of_their_ordinal(chain: stagerun.Chain) -> None:
    chunks = chain.table("chunk", "chunks.parquet")
    last: dict[tuple[str, str], tuple[int, float, int]] = {}
    for row in chain.table("retrieve.search", HITS):
        chunk = chunks[row["ordinal"]]
        assert (row["chunk_id"], row["doc_id"]) == (chunk["chunk_id"], chunk["doc_id"])
        key = (row["query_id"], row["method"])
        rank, score, ordinal = last.get(key, (0, np.inf, -1))
        assert row["rank"] == rank + 1
        assert (-row["score"], row["ordinal"]) > (-score, ordinal)
        last[key] = (row["rank"], row["score"], row["ordinal"])
    assert {method for _, method in last} == {"bm25", "dense", "fused"}
    assert {rank for rank, _, _ in last.values()} == {20}


def test_query_without_a_known_word_has_dense_hits_only(chain: stagerun.Chain) -> None:
    rows = chain.table("retrieve.search", HITS)
    assert "nobody" not in _ids(rows, "bm25")
    assert _ids(rows, "fused")["nobody"] == _ids(rows, "dense")["nobody"] and len(_ids(rows, "bm25")) == 8


def test_blocks_hold_all_queries_once_in_order(chain: stagerun.Chain, tmp_path: Path) -> None:
    units = make_stage("retrieve.search", {"queries_per_unit": 4}).plan(chain.out, tmp_path)
    assert [(u.inputs["start"], u.inputs["stop"]) for u in units] == [(0, 3), (3, 6), (6, 9)]
    names = [row["query_id"] for row in chain.table("retrieve.queries", "queries.parquet")]
    assert list(_ids(chain.table("retrieve.search", HITS), "fused")) == names


def test_size_of_blocks_does_not_change_a_hit(chain: stagerun.Chain, tmp_path: Path) -> None:
    found = chain.again("retrieve.search", tmp_path, queries_per_unit=64)
    assert len(found.units) == 1
    assert sorted(map(str, stagerun.rows_of(found, HITS))) == sorted(map(str, chain.table("retrieve.search", HITS)))


def test_lists_are_probed_as_the_index_was_checked_unless_told(chain: stagerun.Chain) -> None:
    checked = effort_of(chain.out["vectors.check"])
    assert checked is not None
    assert search_settings(RetrieveConfig(), chain.out).num_probes == checked.num_probes
    unchecked = {name: made for name, made in chain.out.items() if name != "vectors.check"}
    assert search_settings(RetrieveConfig(), unchecked).num_probes == checked.num_probes  # as trained: few questions
    assert search_settings(RetrieveConfig(num_probes=3, shortlist=5), chain.out).num_probes == 3
    assert search_settings(RetrieveConfig(num_probes=3, shortlist=5), chain.out).shortlist == 5
    settings = search_settings(RetrieveConfig(depth=7, k=7, k1=1.2, b=0.75, dense_weight=0.5), {})
    assert (settings.depth, settings.k1, settings.b, settings.dense_weight) == (7, 1.2, 0.75, 0.5)


def test_approximate_hits_cannot_be_handed_on_without_a_vector_index(chain: stagerun.Chain, tmp_path: Path) -> None:
    inputs = {name: found for name, found in chain.out.items() if not name.startswith("vectors")}
    with pytest.raises(
        ConfigError, match=r"method=ann: no vector index is built; use pipeline=cluster, or method=dense"
    ):
        make_stage("retrieve.search", {"method": "ann"}).plan(inputs, tmp_path)


@pytest.fixture(scope="module")
def judged(chain: stagerun.Chain, tmp_path_factory: pytest.TempPathFactory) -> stagerun.Chain:
    """The chain with the hits of its index fused, and three of its nine questions searched exactly."""
    found = chain.fork(tmp_path_factory.mktemp("judged"), tuple(n for n in stagerun.STAGES if n != "evaluate"))
    found.settings = {**chain.settings, "retrieve.search": {**chain.settings["retrieve.search"], "exact": "sample"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SAMPLE", 3)
        return found.run("retrieve.search", "generate", "evaluate")


def test_a_sample_is_searched_exactly_and_judges_the_index(chain: stagerun.Chain, judged: stagerun.Chain) -> None:
    mine, always = judged.table("retrieve.search", HITS), chain.table("retrieve.search", HITS)
    names = [row["query_id"] for row in chain.table("retrieve.queries", "queries.parquet")]
    drawn = {names[at] for at in np.sort(np.random.default_rng(0).permutation(len(names))[:3])}
    assert set(_ids(mine, "dense")) == drawn and judged.out["retrieve.search"].extra() == {"searched_exactly": 3}
    assert [r for r in mine if r["method"] == "dense"] == [
        r for r in always if r["method"] == "dense" and r["query_id"] in drawn
    ]
    assert _bytes(judged, "ann.parquet") == _bytes(chain, "ann.parquet")
    assert _ids(mine, "bm25") == _ids(always, "bm25")
    parts = {m["part"]: m["metrics"] for m in map(read_json, judged.out["evaluate"].files("metrics.json"))}
    assert set(parts) == {"answers", "bm25", "fused", "ann"}
    assert parts["ann"]["recall@10_vs_exact.judged"] == 3 and parts["ann"]["recall@10_vs_exact.low"] > 0.5
    assert len(judged.table("generate", "answers.parquet")) == len(names)


@pytest.mark.parametrize(("world_size", "queries_per_unit"), [(1, 2), (3, 9)])
def test_neither_ranks_nor_blocks_change_which_questions_judge(
    world_size: int, queries_per_unit: int, judged: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "SAMPLE", 3)
    inputs = {n: m for n, m in judged.out.items() if n in make_stage("retrieve.search", {}).needs or "vectors" in n}
    settings = {**judged.settings["retrieve.search"], "queries_per_unit": queries_per_unit}
    out = stagerun.run_on_ranks("retrieve.search", settings, inputs, tmp_path, world_size)
    rows = [row for path in sorted(out.glob(f"*/{HITS}")) for row in read_table(path).to_pylist()]
    assert sorted(map(str, rows)) == sorted(map(str, judged.table("retrieve.search", HITS)))


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_filter_leaves_hits_of_what_it_lets_through(world_size: int, chain: stagerun.Chain, tmp_path: Path) -> None:
    chunks = chain.table("chunk", "chunks.parquet")
    settings = {**chain.settings["retrieve.search"], "filter": "num_tokens > 40"}
    inputs = {n: m for n, m in chain.out.items() if n in make_stage("retrieve.search", {}).needs or "vectors" in n}
    out = stagerun.run_on_ranks("retrieve.search", settings, inputs, tmp_path, world_size)
    rows = [row for path in sorted(out.glob(f"*/{HITS}")) for row in read_table(path).to_pylist()]
    assert all(chunks[row["ordinal"]]["num_tokens"] > 40 for row in rows)
    allowed = [n for n, chunk in enumerate(chunks) if chunk["num_tokens"] > 40]
    assert 20 < len(allowed) < len(chunks)
    for method in ("dense", "fused"):
        assert {len(ids) for ids in _ids(rows, method).values()} == {20}
    whole = _ids(stagerun.rows_of(chain.again("retrieve.search", tmp_path / "r", depth=len(chunks)), HITS), "dense")
    kept = set(allowed)
    assert _ids(rows, "dense") == {name: [n for n in ids if n in kept][:20] for name, ids in whole.items()}


def test_dense_is_not_handed_on_where_only_some_questions_have_it(chain: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"exact=never leaves it out; set stage\.retrieve\.method=ann, or exact=always"
    ):
        make_stage("retrieve.search", {"method": "dense", "exact": "never"}).plan(chain.out, tmp_path)
    found = search_settings(RetrieveConfig(method=Method.dense), chain.out)
    assert found.exact is exact.Exact.always


def test_hits_have_one_schema_also_where_there_are_none(chain: stagerun.Chain) -> None:
    from rag_hpc.stores.hits import hits_table

    path = chain.out["retrieve.search"].files(HITS)[0]
    assert read_table(path).schema.equals(hits_table([]).schema)
