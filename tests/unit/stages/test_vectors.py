"""vectors: one quantizer for all shards, whatever the number of ranks, and no shard that misses what it promises."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun
from manifests import manifest_of

from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.stages import vectors
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.shards import load_shards, probes_of
from rag_hpc.stores.vectors import VectorStore

faiss = pytest.importorskip("faiss")


def _encoded(folder: Path, rows: Any, per_unit: int = 50) -> dict[str, Manifest]:
    """Return a made-up encode stage's output that holds these rows."""
    for index, start in enumerate(range(0, len(rows), per_unit)):
        unit_dir = folder / "encode" / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        part = rows[start : start + per_unit].astype(np.float16)
        np.save(unit_dir / "vectors.npy", part, allow_pickle=False)
    given = manifest_of(folder / "encode", "encode")
    counted = [
        {**unit, "items_in": num, "items_out": num, "dropped": {}, "extra": {}}
        for unit, num in zip(given.units, given.rows("vectors.npy"), strict=True)
    ]
    return {"encode": dataclasses.replace(given, units=counted, output_hash=str(len(rows)))}


def _clustered(num_rows: int, dims: int = 16, clusters: int = 20) -> Any:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((clusters, dims))
    rows = centres[rng.integers(0, clusters, num_rows)] + 0.3 * rng.standard_normal((num_rows, dims))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("world_size", [1, 3, 19])
def test_centroids_do_not_depend_on_the_number_of_ranks(world_size: int, chain: stagerun.Chain, tmp_path: Path) -> None:
    # 16 blocks over 3 ranks are uneven shares, over 19 some ranks hold none
    inputs = {"encode": chain.out["encode"]}
    out = stagerun.run_on_ranks("vectors.train", chain.settings["vectors.train"], inputs, tmp_path, world_size)
    for name in ("centroids.npy", "probes.json"):
        committed = chain.out["vectors.train"].files(name)[0]
        assert (out / "unit-00000" / name).read_bytes() == committed.read_bytes()


def test_other_ranks_write_nothing_and_all_count_alike(chain: stagerun.Chain, tmp_path: Path) -> None:
    inputs = {"encode": chain.out["encode"]}
    stagerun.run_on_ranks("vectors.train", chain.settings["vectors.train"], inputs, tmp_path, 2)
    assert list((tmp_path / "rank-1" / "unit-00000").iterdir()) == []


def test_block_sums_are_added_in_block_order() -> None:
    rng = np.random.default_rng(0)
    parts = {b: rng.standard_normal((2, 2)) * 10.0 ** (b % 5) for b in range(16)}
    want = _sum(parts, range(16))
    assert not (_sum(parts, [b for rank in range(3) for b in range(rank, 16, 3)]) == want).all()  # the order shows

    def rank(comm: Comm) -> Any:
        mine = {b: part for b, part in parts.items() if b % comm.world_size == comm.rank}
        return vectors.sum_in_block_order(mine, comm)

    for world_size in (1, 2, 3, 9):
        for total in stagerun.on_ranks(world_size, rank):
            assert total.dtype == np.float64 and (total == want).all()


def _sum(parts: dict[int, Any], order: Iterable[int]) -> Any:
    total = np.zeros((2, 2))
    for block in order:
        total += parts[block]
    return total


def test_centroids_are_unit_vectors_of_the_planned_number(chain: stagerun.Chain) -> None:
    centroids = np.load(chain.out["vectors.train"].files("centroids.npy")[0])
    assert centroids.shape == (4, 384) and centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    probes = json.loads(chain.out["vectors.train"].files("probes.json")[0].read_bytes())
    assert probes == {"num_probes": probes_of(chain.out["vectors.train"])} and 1 <= probes["num_probes"] <= 4


def test_shards_hold_every_ordinal_once_in_float16(chain: stagerun.Chain) -> None:
    store = VectorStore(chain.out["encode"])
    seen: list[int] = []
    for index in load_shards(chain.out["vectors.build"], [0, 1, 2]):
        lists = index.invlists
        ids = [lists.get_single_id(i, j) for i in range(lists.nlist) for j in range(lists.list_size(i))]
        seen += ids
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        back = np.stack([index.reconstruct(i) for i in sorted(ids)])
        np.testing.assert_array_equal(back, store.take(np.sort(ids)).astype(np.float32))
    assert sorted(seen) == list(range(len(store)))


def test_shards_together_answer_as_one_index(tmp_path: Path) -> None:
    rows = _clustered(900)
    inputs = _encoded(tmp_path / "in", rows)
    settings = {"num_lists": 12, "min_recall": 0.9}
    inputs["vectors.train"] = stagerun.run_stage(tmp_path / "run", "vectors.train", settings, inputs)
    found = {}
    for num_shards in (1, 4):
        sharded = {**settings, "num_shards": num_shards}
        built = stagerun.run_stage(tmp_path / "run", "vectors.build", sharded, inputs)
        parts = []
        for index in load_shards(built, list(range(len(built.units)))):
            index.nprobe = 3
            scores, ids = index.search(rows[::50] + 0.01, 10)
            parts += [sorted(zip((-scores[q]).tolist(), ids[q].tolist(), strict=True)) for q in range(len(ids))]
        found[num_shards] = [sorted(hit for part in parts[q::18] for hit in part)[:10] for q in range(18)]
    assert found[1] == found[4]


def test_shard_that_misses_too_much_is_refused_with_a_remedy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, 32)).astype(np.float32)  # no clusters: one list holds few of the neighbours
    inputs = _encoded(tmp_path / "in", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    settings = {"num_lists": 15, "num_probes": 1, "num_shards": 2}
    inputs["vectors.train"] = stagerun.run_stage(tmp_path / "run", "vectors.train", settings, inputs)
    with pytest.raises(vectors.RecallTooLow, match=r"unit-00000 has recall@10 0\.\d+ at 1 of 15 lists.*num_probes=2"):
        stagerun.run_stage(tmp_path / "run", "vectors.build", settings, inputs)
    unasked = {**settings, "num_probes": 0}
    inputs["vectors.train"] = stagerun.run_stage(tmp_path / "run", "vectors.train", unasked, inputs)
    assert probes_of(inputs["vectors.train"]) > 5
    assert len(stagerun.run_stage(tmp_path / "run", "vectors.build", unasked, inputs).units) == 2


def test_equal_vectors_do_not_count_as_missed() -> None:
    rows = _clustered(200)
    rows[20:180] = rows[20]  # a licence text in most documents: any ten of them are the ten best
    index = vectors.new_index(rows[:1])
    index.add_with_ids(rows[::-1].copy(), np.arange(1000, 1200)[::-1].copy())
    assert vectors.shard_recall(index, rows.astype(np.float16).astype(np.float32), 1000, 1) > 0.999


def test_recall_counts_what_is_missing() -> None:
    rows = _clustered(200).astype(np.float16).astype(np.float32)
    index = vectors.new_index(rows[:1])
    index.add_with_ids(rows[:100], np.arange(100))
    assert 0.2 < vectors.shard_recall(index, rows, 0, 1) < 0.8


def test_fewest_probes_that_suffice_are_found() -> None:
    rows = _clustered(800, clusters=8)
    centroids = np.stack([rows[i] for i in range(0, 800, 50)])
    index = vectors.new_index(centroids)
    index.add(rows)
    probes = vectors.enough_probes(centroids, rows, 0.9)
    assert vectors.shard_recall(index, rows, 0, probes) >= 0.975
    assert probes == 1 or vectors.shard_recall(index, rows, 0, probes - 1) < 0.975
    assert vectors.enough_probes(centroids, rows, 1.0) <= 16


@pytest.mark.parametrize(("num_rows", "lists"), [(1, 1), (38, 1), (78, 2), (1000, 25), (100_000, 1264)])
def test_default_lists_have_39_rows_each(num_rows: int, lists: int) -> None:
    assert vectors.default_lists(num_rows) == lists
    assert lists == 1 or num_rows // lists >= 39


def test_more_lists_than_sampled_rows_are_refused_at_the_plan(chain: stagerun.Chain, tmp_path: Path) -> None:
    for settings in ({"num_lists": 1000}, {"num_lists": 50, "train_rows": 40}):
        with pytest.raises(ConfigError, match=r"set it to 0 \(automatic\), or raise stage.vectors.train_rows"):
            make_stage("vectors.train", settings).plan(chain.out, tmp_path)
    assert make_stage("vectors.train", {}).plan(chain.out, tmp_path)[0].inputs == {"num_lists": 4}


def test_one_vector_is_an_index_too(tmp_path: Path) -> None:
    inputs = _encoded(tmp_path / "in", _clustered(1))
    inputs["vectors.train"] = stagerun.run_stage(tmp_path / "run", "vectors.train", {}, inputs)
    built = stagerun.run_stage(tmp_path / "run", "vectors.build", {}, inputs)
    assert [u["items_out"] for u in built.units] == [1]
