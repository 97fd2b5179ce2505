"""vectors: one quantizer for all shards, whatever the number of ranks, and no shard that misses what it promises."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun
from madevectors import clustered, encoded
from manifests import manifest_of

from rag_hpc.algo.rank.topk import Hits, exact_topk, merge_topk, rescore
from rag_hpc.core.comm import Comm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.models import device
from rag_hpc.search import indexes
from rag_hpc.search.ann import Ann, gathered, slice_of
from rag_hpc.search.choose import default_lists, size_of
from rag_hpc.search.indexes import Shards, join
from rag_hpc.search.recall import share_found
from rag_hpc.stages import vectors
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.questions import write_questions
from rag_hpc.stores.shards import Effort, Kind, effort_of, load_shards
from rag_hpc.stores.vectors import VectorStore

faiss = pytest.importorskip("faiss")


def test_a_shard_opens_in_plain_faiss_under_the_run_s_ordinals(chain: stagerun.Chain) -> None:
    store = VectorStore(chain.out["encode"])
    rows = store.rows(0, len(store)).astype(np.float32)
    found = []
    for path in chain.out["vectors.build"].files("index.faiss"):
        plain = faiss.read_index(str(path))
        plain.nprobe = plain.nlist
        found.append(plain.search(rows[:20], 3))
    ids = merge_topk(found, 3)[1]
    assert sum(len(part) for part, _ in found) == 20 * len(chain.out["vectors.build"].units)
    assert ids[:, 0].tolist() == exact_topk(rows[:20], rows, 1)[1][:, 0].tolist()


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_centroids_do_not_depend_on_the_number_of_ranks(world_size: int, chain: stagerun.Chain, tmp_path: Path) -> None:
    inputs = {"encode": chain.out["encode"]}
    out = stagerun.run_on_ranks("vectors.train", chain.settings["vectors.train"], inputs, tmp_path, world_size)
    for name in ("centroids.npy", "probes.json"):
        committed = chain.out["vectors.train"].files(name)[0]
        assert (out / "unit-00000" / name).read_bytes() == committed.read_bytes()


def test_other_ranks_write_nothing_and_all_count_alike(chain: stagerun.Chain, tmp_path: Path) -> None:
    inputs = {"encode": chain.out["encode"]}
    stagerun.run_on_ranks("vectors.train", chain.settings["vectors.train"], inputs, tmp_path, 2)
    assert list((tmp_path / "rank-1" / "unit-00000").iterdir()) == []


def test_centroids_are_unit_vectors_of_the_planned_number(chain: stagerun.Chain) -> None:
    centroids = np.load(chain.out["vectors.train"].files("centroids.npy")[0])
    assert centroids.shape == (4, 384) and centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    probes = json.loads(chain.out["vectors.train"].files("probes.json")[0].read_bytes())
    assert probes == {"index": "ivf_fp16", "num_probes": probes["num_probes"]}
    assert 1 <= probes["num_probes"] <= 4


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


@pytest.mark.parametrize(("num_rows", "lists"), [(1, 1), (38, 1), (78, 2), (1000, 25), (100_000, 1264)])
def test_default_lists_have_39_rows_each(num_rows: int, lists: int) -> None:
    assert default_lists(num_rows) == lists
    assert lists == 1 or num_rows // lists >= 39


def test_more_lists_than_sampled_rows_are_refused_at_the_plan(chain: stagerun.Chain, tmp_path: Path) -> None:
    for settings in ({"num_lists": 1000}, {"num_lists": 50, "train_rows": 40}):
        with pytest.raises(ConfigError, match=r"set it to 0 \(automatic\), or raise stage.vectors.train_rows"):
            make_stage("vectors.train", settings).plan(chain.out, tmp_path)
    assert make_stage("vectors.train", {}).plan(chain.out, tmp_path)[0].inputs == {"index": "ivf_fp16", "num_lists": 4}


def test_one_vector_is_an_index_too(tmp_path: Path) -> None:
    inputs = encoded(tmp_path / "in", clustered(1))
    inputs["vectors.train"] = stagerun.run_stage(tmp_path / "run", "vectors.train", {}, inputs)
    built = stagerun.run_stage(tmp_path / "run", "vectors.build", {}, inputs)
    assert [u["items_out"] for u in built.units] == [1]


LISTS = [kind.value for kind in Kind if kind.has_lists]
SMALL = {"num_lists": 12, "num_probes": 3, "min_recall": 0.5, "shortlist": 60}


def _built(folder: Path, inputs: dict[str, Manifest], settings: dict[str, Any], num_shards: int) -> Manifest:
    if "vectors.train" not in inputs:
        inputs["vectors.train"] = stagerun.run_stage(folder, "vectors.train", settings, inputs)
    return stagerun.run_stage(folder, "vectors.build", {**settings, "num_shards": num_shards}, inputs)


def _found(built: Manifest, rows: Any, queries: Any, world_size: int, depth: int = 10) -> Hits:
    """Return what ranks find together, each with a slice of the rows."""

    def rank(comm: Comm) -> Hits | None:
        first, stop = slice_of(len(rows), comm)
        index = Ann(built, rows[first:stop], first, comm)
        parts = gathered(index.search(queries, depth), comm)
        return merge_topk(parts, depth) if parts else None

    found = stagerun.on_ranks(world_size, rank)[0]
    assert found is not None
    return found


def _rows() -> Any:
    """Return rows of which a third stand twice or more often, in different shards."""
    rows = clustered(900).astype(np.float16)
    rows[600:] = rows[np.random.default_rng(1).integers(0, 200, 300)]
    return rows


@pytest.mark.parametrize("num_rows", [63, 64, 128])
def test_indexes_of_packed_codes_are_joined_only_where_faiss_keeps_to_its_memory(num_rows: int) -> None:
    rows = clustered(400)

    def made(first: int, num: int) -> Any:
        quantizer = faiss.IndexFlatIP(16)
        quantizer.add(np.ones((1, 16), dtype=np.float32))
        index = faiss.IndexIVFPQFastScan(quantizer, 16, 1, 4, 4, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        index.add_with_ids(rows[first : first + num], np.arange(first, first + num))
        quantizer.this.disown()
        index.own_fields = True
        return index

    joined: list[Any] = []
    for index in (made(0, num_rows), made(200, 5), made(300, 5)):
        join(joined, index)
    assert [one.ntotal for one in joined] == ([num_rows + 10] if num_rows % 64 else [num_rows, 10])
    found = np.concatenate([one.search(rows[:1], one.ntotal)[1][0] for one in joined])
    assert sorted(found) == [*range(num_rows), *range(200, 205), *range(300, 305)]


@pytest.mark.parametrize("kind", LISTS)
def test_shards_together_answer_as_one_index(kind: str, tmp_path: Path) -> None:
    rows, settings = _rows(), {**SMALL, "index": kind}
    inputs = encoded(tmp_path / "in", rows)
    queries = rows[::37].astype(np.float32) + np.float32(0.05)
    one = _found(_built(tmp_path / "run", inputs, settings, 1), rows, queries, 1)
    assert (one[1][:, 0] >= 0).all() and (one[1] != one[1][0]).any()
    for num_shards in (2, 3, 7):
        built = _built(tmp_path / "run", inputs, settings, num_shards)
        for world_size in (num_shards, 2):  # a shard a rank, and several: they serve as one
            scores, ids = _found(built, rows, queries, world_size)
            assert ids.tobytes() == one[1].tobytes(), (num_shards, world_size)
            assert scores.tobytes() == one[0].tobytes()


@pytest.mark.parametrize("kind", LISTS)
def test_one_question_finds_what_many_find(kind: str, tmp_path: Path) -> None:
    rows, settings = _rows(), {**SMALL, "index": kind}
    built = _built(tmp_path / "run", encoded(tmp_path / "in", rows), settings, 2)
    queries = np.tile(rows[::37].astype(np.float32) + np.float32(0.05), (11, 1))[:256]
    _, want = _found(built, rows, queries, 1)
    for num in (1, 19, 20):
        assert _found(built, rows, queries[:num], 1)[1].tobytes() == want[:num].tobytes()


def test_refining_in_each_shard_would_change_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1000, 64)).astype(np.float32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    settings = {**SMALL, "index": "ivf_pq_fastscan", "num_probes": 12, "shortlist": 20}
    inputs = encoded(tmp_path / "in", rows)
    queries = rows[::37].astype(np.float32) + 0.1 * rng.standard_normal((28, 64)).astype(np.float32)
    _, one = _found(_built(tmp_path / "run", inputs, settings, 1), rows, queries, 1)
    built = _built(tmp_path / "run", inputs, settings, 4)
    effort = effort_of(built)
    assert effort is not None
    parts = []
    for position in range(4):
        ids = Shards(load_shards(built, [position]), effort).shortlist(queries, 20)[1]
        parts.append(rescore(queries, rows, ids, 10, longest_row=1.01))
    assert (merge_topk(parts, 10)[1] != one).any()  # so the cut over all shards is what makes them equal
    assert _found(built, rows, queries, 4)[1].tobytes() == one.tobytes()


def test_flat_is_exact_search(tmp_path: Path) -> None:
    rows = _rows()
    queries = rows[::37].astype(np.float32) + np.float32(0.05)
    for num_shards in (1, 3):
        built = _built(tmp_path / f"run{num_shards}", encoded(tmp_path / f"{num_shards}", rows), {"index": "flat"}, 3)
        scores, ids = _found(built, rows, queries, num_shards)
        want = exact_topk(queries, rows, 10)
        assert ids.tobytes() == want[1].tobytes() and scores.tobytes() == want[0].tobytes()


def test_graph_states_its_recall_and_is_the_same_for_every_p(tmp_path: Path) -> None:
    rows, settings = _rows(), {"index": "hnsw", "num_shards": 3, "min_recall": 0.9}
    inputs = encoded(tmp_path / "in", rows)
    built = _built(tmp_path / "run", inputs, settings, 3)
    inputs["vectors.build"] = built
    checked = stagerun.run_stage(tmp_path / "run", "vectors.check", settings, inputs)
    assert 0.9 <= checked.extra()["recall@10"] <= 1
    queries = rows[::37].astype(np.float32)
    one, two = _found(built, rows, queries, 1), _found(built, rows, queries, 2)
    assert one[1].tobytes() == two[1].tobytes()


@pytest.mark.parametrize("kind", [kind.value for kind in Kind])
def test_bytes_are_known_before_the_build(kind: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float16)
    settings = {"index": kind, "num_lists": 16, "num_probes": 2, "shortlist": 10, "ef_search": 10, "iterations": 2}
    built = _built(tmp_path / "run", encoded(tmp_path / "in", rows, 3000), settings, 1)
    want = built.units[0]["files"]["index.faiss"]["bytes"]
    assert size_of(Kind[kind], 3000, 64, 16).total == pytest.approx(want, rel=0.05)


def test_adding_takes_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = _rows(), []
    inputs = encoded(tmp_path / "in", rows)
    want = _built(tmp_path / "run", inputs, SMALL, 1).output_hash
    monkeypatch.setattr(indexes, "BLOCK", 128)
    whole = VectorStore.rows
    monkeypatch.setattr(VectorStore, "rows", lambda self, a, b: asked.append(b - a) or whole(self, a, b))
    assert _built(tmp_path / "again", inputs, SMALL, 1).output_hash == want
    assert max(asked) == 128 and sum(asked) == 900


def test_index_that_misses_too_much_is_refused_with_a_remedy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, 32)).astype(np.float32)  # no clusters: one list holds few of the neighbours
    inputs = encoded(tmp_path / "in", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    settings = {"num_lists": 15, "num_probes": 1, "num_shards": 2}
    inputs["vectors.build"] = _built(tmp_path / "run", inputs, settings, 2)
    with pytest.raises(
        vectors.RecallTooLow,
        match=r"ivf_fp16 has recall@10 0\.\d+ \[0\.\d+, 0\.\d+\] over 300 noisy copies of passages.*num_probes=2",
    ):
        stagerun.run_stage(tmp_path / "run", "vectors.check", settings, inputs)


def test_least_effort_on_the_sample_passes_the_check_on_other_questions(tmp_path: Path) -> None:
    rows = clustered(2000, dims=32, clusters=50)
    for kind in ("ivf_fp16", "ivf_pq", "ivf_rabitq"):
        inputs = encoded(tmp_path / kind, rows, 500)
        settings = {"index": kind, "num_lists": 20, "min_recall": 0.95}
        inputs["vectors.build"] = _built(tmp_path / kind / "run", inputs, settings, 2)
        checked = stagerun.run_stage(tmp_path / kind / "run", "vectors.check", settings, inputs)
        figures = checked.extra()
        assert figures["recall@10.low"] <= figures["recall@10"] <= figures["recall@10.high"]
        assert figures["recall@10"] >= 0.95 and "recall@100" in figures
        effort = effort_of(inputs["vectors.build"])
        assert effort is not None and (effort.shortlist > 0) == (kind != "ivf_fp16")


def test_check_asks_the_runs_questions_and_says_so(chain: stagerun.Chain) -> None:
    value = json.loads(chain.out["vectors.check"].files("recall.json")[0].read_bytes())
    assert value["asked"] == "questions of the run" and value["num_asked"] == chain.out["vectors.check"].total(
        "items_in"
    )
    assert value["recall@10"]["mean"] == chain.out["vectors.check"].extra()["recall@10"] >= 0.99


def _asked(folder: Path, inputs: dict[str, Manifest], vectors: Any) -> None:
    """Add questions with these vectors to the inputs."""
    unit_dir = folder / "retrieve.queries" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    named = [{"id": f"q{number}", "text": "what"} for number in range(len(vectors))]
    write_questions(unit_dir, named, vectors.astype(np.float16))
    made = manifest_of(folder / "retrieve.queries", "retrieve.queries")
    units = [{**made.units[0], "items_in": len(named), "items_out": len(named), "dropped": {}, "extra": {}}]
    inputs["retrieve.queries"] = dataclasses.replace(made, units=units, output_hash=str(len(named)))


@pytest.mark.parametrize("kind", ["ivf_fp16", "ivf_pq_fastscan", "hnsw"])
def test_half_of_the_questions_choose_the_effort_and_half_judge_it(kind: str, tmp_path: Path) -> None:
    rows = clustered(1500, dims=32, clusters=60)
    rng = np.random.default_rng(5)
    near = rows[rng.integers(0, len(rows), 200)] + 0.02 * rng.standard_normal((200, 32))
    inputs = encoded(tmp_path / "in", rows, 500)
    settings = {"index": kind, "num_lists": 30, "min_recall": 0.9}
    inputs["vectors.build"] = _built(tmp_path / "run", inputs, settings, 3)
    _asked(tmp_path / "in", inputs, near)
    checked = stagerun.run_stage(tmp_path / "run", "vectors.check", settings, inputs)
    value, effort = json.loads(checked.files("recall.json")[0].read_bytes()), effort_of(checked)
    assert (value["num_asked"], value["num_chosen_on"], value["num_judged"]) == (200, 100, 100)
    assert value["recall@10"]["mean"] >= 0.9 and value["chosen_on"]["recall@10"]["mean"] >= 0.95
    figures = checked.extra()
    assert figures["recall@10.chosen"] == value["chosen_on"]["recall@10"]["mean"]
    before = effort_of(inputs["vectors.build"])
    assert effort is not None and before is not None and effort.kind is before.kind
    assert value["effort"] == {name: figures[name] for name in value["effort"]} and len(value["effort"]) > 0
    assert effort.num_probes <= before.num_probes  # noisy copies of passages need more lists than these questions
    for world_size in (2, 7):
        out = stagerun.run_on_ranks("vectors.check", settings, inputs, tmp_path / str(world_size), world_size)
        for name in ("recall.json", "probes.json"):
            assert (out / "unit-00000" / name).read_bytes() == checked.files(name)[0].read_bytes(), world_size


def test_the_effort_is_the_least_and_what_is_set_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((1500, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows[::5] + 0.1 * rng.standard_normal((300, 16)).astype(np.float32)
    inputs = encoded(tmp_path / "in", rows, 500)
    settings = {"num_lists": 30, "min_recall": 0.6}
    inputs["vectors.build"] = _built(tmp_path / "run", inputs, settings, 2)
    _asked(tmp_path / "in", inputs, near)
    effort = effort_of(stagerun.run_stage(tmp_path / "run", "vectors.check", settings, inputs))
    assert effort is not None and 2 <= effort.num_probes < 10  # a list more is tried each time
    fewer = {**settings, "num_probes": effort.num_probes - 1}
    _asked(tmp_path / "chose", inputs, near[::2])
    given = {**inputs, "vectors.build": _built(tmp_path / "fewer", {"encode": inputs["encode"]}, fewer, 2)}
    checked = stagerun.run_stage(tmp_path / "fewer", "vectors.check", {**fewer, "min_recall": 0.0}, given)
    found = json.loads(checked.files("recall.json")[0].read_bytes())
    assert "chosen_on" not in found and found["num_judged"] == 150  # nothing was left to choose: all judge
    assert found["effort"] == {"num_probes": effort.num_probes - 1}
    recall = found["recall@10"]
    assert recall["mean"] < 0.8 or recall["mean"] - 2**0.5 * (recall["high"] - recall["low"]) / 2 < 0.61


@pytest.mark.parametrize("world_size", [2, 7])
def test_check_does_not_depend_on_the_number_of_ranks(world_size: int, chain: stagerun.Chain, tmp_path: Path) -> None:
    inputs = {name: chain.out[name] for name in ("encode", "vectors.build", "retrieve.queries")}
    out = stagerun.run_on_ranks("vectors.check", chain.settings["vectors.check"], inputs, tmp_path, world_size)
    committed = chain.out["vectors.check"].files("recall.json")[0]
    assert (out / "unit-00000" / "recall.json").read_bytes() == committed.read_bytes()


def test_equal_vectors_do_not_count_as_missed() -> None:
    rows = clustered(200).astype(np.float16)
    rows[20:180] = rows[20]  # a licence text in most documents: any ten of them are the ten best
    scores = exact_topk(rows[:30].astype(np.float32), rows[::-1], 10)[0]
    assert share_found(scores, exact_topk(rows[:30].astype(np.float32), rows, 10)[0], 10).min() == 1


def test_too_few_rows_for_a_codebook_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"index=ivf_pq: the sample has 40 vectors.*need 256.*index=ivf_fp16"):
        _built(tmp_path / "run", encoded(tmp_path / "in", clustered(40)), {"index": "ivf_pq"}, 1)


def test_ranks_of_other_cpus_are_refused() -> None:
    def rank(comm: Comm) -> None:
        device.cpu_class = lambda: f"class{comm.rank}"  # type: ignore[assignment]
        vectors.agree_on_cpu(comm)

    real = device.cpu_class
    try:
        with pytest.raises(ConfigError, match=r"class1, rank 0's of another.*cluster.constraint"):
            stagerun.on_ranks(2, rank)
    finally:
        device.cpu_class = real


def test_run_of_before_knows_one_kind(tmp_path: Path) -> None:
    unit_dir = tmp_path / "vectors.train" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    (unit_dir / "probes.json").write_text('{"num_probes":7}\n')
    assert effort_of(manifest_of(tmp_path / "vectors.train", "vectors.train")) == Effort(num_probes=7)
