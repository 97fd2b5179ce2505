"""An index divided by lists finds what one divided by documents finds, and asks the ranks that own probed lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun
from madevectors import clustered, encoded

from rag_hpc.algo.rank.topk import Hits
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import Comm, Join
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError
from rag_hpc.search.ann import Ann, merged, slice_of
from rag_hpc.search.lists import Division, own_probes, owners_of, shards_asked
from rag_hpc.stores.shards import Kind

pytest.importorskip("faiss")
LISTS = [kind.value for kind in Kind if kind.has_lists]
SETTINGS = {"num_lists": 24, "num_probes": 4, "shortlist": 60, "num_shards": 3, "iterations": 3}


def _built(folder: Path, rows: Any, kind: str) -> Manifest:
    inputs, settings = encoded(folder / "in", rows), {**SETTINGS, "index": kind}
    inputs["vectors.train"] = stagerun.run_stage(folder / "run", "vectors.train", settings, inputs)
    return stagerun.run_stage(folder / "run", "vectors.build", settings, inputs)


def _rows() -> Any:
    """Return rows of which a third stand twice or more often, in different shards."""
    rows = clustered(900).astype(np.float16)
    rows[600:] = rows[np.random.default_rng(1).integers(0, 200, 300)]
    return rows


def _searched(
    built: Manifest, rows: Any, queries: Any, world_size: int, division: Division, allowed: Any = None
) -> tuple[Hits, float | None, list[int]]:
    """Return what ranks find together, how many of them a query asked, and the rows of each rank's index."""

    def rank(comm: Comm) -> tuple[Hits | None, float | None, int]:
        first, stop = slice_of(len(rows), comm)
        index = Ann(built, rows[first:stop], first, comm, division=division)
        return merged(index.search(queries, 10, allowed), comm), index.shards_asked, index.num_held

    (found, asked, _), *others = results = stagerun.on_ranks(world_size, rank)
    assert found is not None and all(other[0] is None for other in others)
    return found, asked, [held for *_, held in results]


@pytest.mark.parametrize("kind", LISTS)
def test_division_by_lists_finds_the_same_bytes(kind: str, tmp_path: Path) -> None:
    rows = _rows()
    built, queries = _built(tmp_path, rows, kind), rows[::37].astype(np.float32) + np.float32(0.05)
    allowed = np.arange(len(rows)) % 3 > 0
    for some in (None, allowed):
        (scores, ids), asked, _ = _searched(built, rows, queries, 1, Division.documents, some)
        assert asked is None
        for world_size in (1, 2, 3, 7):
            found, asked, held = _searched(built, rows, queries, world_size, Division.lists, some)
            assert found[0].tobytes() == scores.tobytes() and found[1].tobytes() == ids.tobytes(), world_size
            assert sum(held) == len(rows)
            if world_size > 1:
                assert asked is not None and 1 <= asked <= min(world_size, SETTINGS["num_probes"])
                assert max(held) < len(rows) * 1.6 / world_size + 60


def test_one_question_and_more_ranks_than_questions_find_the_same(tmp_path: Path) -> None:
    rows = _rows()
    built, queries = _built(tmp_path, rows, "ivf_fp16"), rows[:3].astype(np.float32)
    for num in (1, 3):
        one = _searched(built, rows, queries[:num], 1, Division.documents)[0]
        found = _searched(built, rows, queries[:num], 7, Division.lists)[0]
        assert found[1].tobytes() == one[1].tobytes()


def test_a_rank_that_chooses_nothing_is_stood_in_for_by_rank_0(tmp_path: Path) -> None:
    rows = _rows()
    built, queries = _built(tmp_path, rows, "ivf_fp16"), rows[::20].astype(np.float32)
    one = _searched(built, rows, queries, 1, Division.documents)[0]

    class Silent:
        """Ranks whose first fold after loading joins nothing of any but rank 0, as a group does with late ones."""

        def __init__(self, comm: Comm) -> None:
            self._comm, self.rank, self.world_size, self.folds = comm, comm.rank, comm.world_size, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._comm, name)

        def fold(self, array: Array, join: Join) -> Array | None:
            self.folds += 1
            return self._comm.fold(array, (lambda left, right: left) if self.folds == 1 else join)

    def rank(comm: Comm) -> Hits | None:
        silent: Any = Silent(comm)
        first, stop = slice_of(len(rows), comm)
        index = Ann(built, rows[first:stop], first, silent, division=Division.lists)
        return merged(index.search(queries, 10), silent)

    found = stagerun.on_ranks(3, rank)[0]
    assert found is not None and found[1].tobytes() == one[1].tobytes()


def test_near_lists_have_one_owner_and_owners_as_many_rows() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 30)
    centroids = (10 * rng.standard_normal((8, 6))[groups] + rng.standard_normal((240, 6))).astype(np.float32)
    sizes = rng.integers(0, 50, 240)
    for num_ranks in (1, 2, 4, 7):
        owners = owners_of(centroids, sizes, num_ranks)
        held = np.bincount(owners, weights=sizes, minlength=num_ranks)
        assert held.max() <= sizes.sum() / num_ranks + 60
        if num_ranks == 4:
            probes = np.argsort(-(centroids[::9] @ centroids.T), axis=1)[:, :20]
            scattered = shards_asked(probes, np.arange(240) % num_ranks, num_ranks)
            assert shards_asked(probes, owners, num_ranks) < 0.6 * scattered


def test_a_rank_is_given_the_queries_and_lists_that_are_its_own() -> None:
    lists = np.array([[0, 1, 2], [3, 4, 0], [2, 0, -1]])
    owners = np.array([0, 1, 0, 1, 2])
    near = np.arange(9, dtype=np.float32).reshape(3, 3)
    asking, (scores, own) = own_probes((near, lists), owners, 0)
    assert asking.tolist() == [0, 1, 2] and own.tolist() == [[0, 2], [0, -1], [2, 0]]
    assert scores[own >= 0].tolist() == [0, 2, 5, 6, 7]
    asking, (_, own) = own_probes((near, lists), owners, 2)
    assert asking.tolist() == [1] and own.tolist() == [[4]]
    assert shards_asked(lists, owners, 3) == (2 + 3 + 1) / 3


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_kinds_without_lists_are_refused(kind: str, tmp_path: Path) -> None:
    rows = clustered(100).astype(np.float16)
    built = _built(tmp_path, rows, kind)
    with pytest.raises(
        ConfigError, match=rf"kind {kind} has no inverted lists; set stage.retrieve.divided_by=documents"
    ):
        _searched(built, rows, rows[:2].astype(np.float32), 2, Division.lists)
