"""Indexes beside each other: the vectors, a side in its process, the frontier, and auto's row."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")
from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.algo.types import F32, Array
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import Timed
from rag_hpc.eval.bench.vectors import vectors, workers
from rag_hpc.eval.bench.vectors.data import tiled
from rag_hpc.eval.bench.vectors.divided import divide
from rag_hpc.eval.bench.vectors.plot import frontier
from rag_hpc.stores.shards import Kind


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, F32]:
    """Rows and questions around 40 centres."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    centres = rng.standard_normal((40, 32))
    (folder / "ann_bge_base").mkdir()
    for name, num in {"base.f16.npy": 400, "queries.f16.npy": 40}.items():
        rows = centres[rng.integers(0, 40, num)] + 0.5 * rng.standard_normal((num, 32))
        np.save(folder / "ann_bge_base" / name, rows.astype(np.float16))
    return tiled(folder, 2000)


def test_rows_are_the_encodings_and_points_near_them(made: tuple[Array, F32], tmp_path: Path) -> None:
    rows, queries = made
    assert rows.shape == (2000, 32) and rows.dtype == np.float16 and queries.shape == (40, 32)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=2e-3)
    nearest = exact_topk(rows[400:].astype(np.float32), rows[:400], 1)[0]
    assert np.median(nearest) > 0.85 and len(np.unique(rows, axis=0)) == 2000
    with pytest.raises(InputError, match="RAG_HPC_DATA"):
        tiled(tmp_path, 10)


def test_a_side_answers_in_its_process_and_its_effort_is_chosen(made: tuple[Array, F32], tmp_path: Path) -> None:
    rows, queries = made
    arrays = {"rows": rows, "queries": queries, "centroids": vectors._centroids(rows)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    truth = exact_topk(queries, rows, 10)[0][:, -1]
    command = [sys.executable, "-m", "rag_hpc.eval.bench.vectors.side", "ivf_sq8", str(tmp_path), "2"]
    side = vectors.Process("ivf_sq8", command, tmp_path, truth)
    side.sweep([{"num_probes": 1, "shortlist": 30}, {"num_probes": 51, "shortlist": 100}])
    few, all_lists = side.points
    assert few.recall < all_lists.recall == 1 and few.rate > 0
    assert side.chosen(0.99) == all_lists.setting
    assert side.ask(all_lists.setting, 1).recall == 1
    assert side.num_bytes > rows.nbytes + rows.size
    side.end()


def test_shards_cut_globally_change_no_answer(made: tuple[Array, F32]) -> None:
    rows, queries = made
    row = vectors._sharded(Kind.ivf_pq_fastscan, rows, queries, vectors._centroids(rows), shortlist=20)
    assert row.met and row.ours == 0


def test_frontier_keeps_what_no_other_beats() -> None:
    points = [(0.5, 10.0), (0.9, 4.0), (0.8, 3.0), (0.9, 5.0), (1.0, 1.0)]
    assert frontier(points) == [(0.5, 10.0), (0.9, 5.0), (1.0, 1.0)]


def test_auto_that_exact_search_beats_misses_its_bar() -> None:
    timed = Timed(values={"exact": [100.0] * 7, "ivf_pq": [90.0] * 7, "hnsw": [50.0] * 7}, contention=None)
    row = vectors._auto("x", "ivf_pq", ["exact", "ivf_pq", "hnsw"], timed, "")
    assert row.ratio == 0.9 and row.met is False and set(row.peers) == {"exact", "hnsw"}
    assert vectors._auto("x", "ivf_pq", ["ivf_pq", "hnsw"], timed, "").met is True


def costs(**values: object) -> workers.Costs:
    shares = {p: [1.0 / p] * 3 for p in workers.PS}
    given = {
        "lists_s": dict.fromkeys(workers.PS, 0.0),
        "scan_s": shares,
        "rescore_s": shares,
        "merge_s": 0.0,
        "latency_s": 0.0,
        "byte_s": 0.0,
    }
    return workers.Costs(**{**given, **values})  # type: ignore[arg-type]


def test_simulated_workers_follow_the_laws_that_are_known() -> None:
    one, many = (workers.simulate(costs(), p).total for p in (1, 256))
    assert one / many == pytest.approx(256)
    with_lists = [workers.simulate(costs(lists_s=dict.fromkeys(workers.PS, 0.5)), p).total for p in (1, 256)]
    assert with_lists[0] / with_lists[1] == pytest.approx(1 / (0.2 + 0.8 / 256))  # Amdahl's law, a serial fifth
    tree = workers.simulate(costs(latency_s=0.001, merge_s=0.002), 256)
    assert (tree.messages, tree.merges) == (pytest.approx(3 * 8 * 0.001), pytest.approx(2 * 8 * 0.002))
    told = workers.simulate(costs(latency_s=0.001, chosen_bytes=1), 256)
    assert told.messages == pytest.approx(5 * 8 * 0.001)
    uneven = {p: [0.5, 1.5] for p in workers.PS}
    slow = workers.simulate(costs(scan_s=uneven), 64)
    assert slow.scan == pytest.approx(1, abs=0.05) and slow.waiting == pytest.approx(0.5, abs=0.05)


def test_shares_are_measured_at_every_p(made: tuple[Array, F32]) -> None:
    rows, queries = made
    found = workers.measure(rows, queries, vectors._centroids(rows), 1e-5, 1e-10)
    assert set(found.scan_s) == set(found.rescore_s) == set(workers.PS) and found.merge_s > 0
    assert found.message_s(1000) == pytest.approx(1.01e-5)
    by_lists, asked = divide(found, rows, queries, vectors._centroids(rows), lambda work: [work() is None, 1.0])
    assert set(by_lists.scan_s) == set(by_lists.lists_s) == set(workers.PS) and by_lists.chosen_bytes > 0
    assert asked[1] == 1 and 1 < asked[4] <= 4
