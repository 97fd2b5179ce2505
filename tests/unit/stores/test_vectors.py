"""Vectors by ordinal across units, and shards whose bytes are checked before they are parsed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import stagerun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import manifest_of

from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import CorruptOutput, IncompleteError
from rag_hpc.stores import vectors
from rag_hpc.stores.shards import Effort, effort_of, load_shards
from rag_hpc.stores.vectors import VectorStore

SIZES = (4, 0, 1, 6)
WHOLE = np.arange(sum(SIZES) * 3, dtype=np.float16).reshape(-1, 3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder, first = tmp_path_factory.mktemp("encode"), 0
    for index, size in enumerate(SIZES):
        unit_dir = folder / "units" / f"unit-{index:05d}"
        unit_dir.mkdir(parents=True)
        np.save(unit_dir / "vectors.npy", WHOLE[first : first + size])
        first += size
    return manifest_of(folder, "encode")


@given(st.integers(0, 12), st.integers(0, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_rows_are_those_of_one_array(stored: Manifest, start: int, stop: int) -> None:
    got = VectorStore(stored).rows(start, stop)
    np.testing.assert_array_equal(got, WHOLE[start:stop])
    assert got.shape == (max(0, min(stop, 11) - min(start, 11)), 3) and got.dtype == np.float16


@given(st.sets(st.integers(0, 10)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_taken_rows_are_those_of_one_array(stored: Manifest, ordinals: set[int]) -> None:
    wanted = np.array(sorted(ordinals), dtype=np.int64)
    np.testing.assert_array_equal(VectorStore(stored).take(wanted), WHOLE[wanted])


def test_thousands_of_units_are_read_through_few_maps(stored: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_MAX_MAPS", 1)
    store = VectorStore(stored)
    for _ in range(2):
        np.testing.assert_array_equal(store.take(np.array([0, 4, 10])), WHOLE[[0, 4, 10]])
    assert len(store._maps) == 1


def test_length_is_that_of_all_units(stored: Manifest) -> None:
    assert len(VectorStore(stored)) == 11
    assert len(VectorStore(dataclasses.replace(stored, units=[]))) == 0


def test_gap_of_a_quarantined_unit_is_refused_rather_than_closed(stored: Manifest) -> None:
    broken = dataclasses.replace(stored, units=stored.units[1:], quarantined=[0])
    with pytest.raises(IncompleteError, match=r"encode: 1 units are quarantined.*manifest.json and run: rag-hpc retry"):
        VectorStore(broken)


def test_changed_shard_is_not_parsed(tmp_path: Path) -> None:
    built = stagerun.chain_or_skip().out["vectors.build"]
    copy = tmp_path / "build"
    shutil.copytree(built.folder, copy)
    found = dataclasses.replace(built, folder=copy)
    (good,) = load_shards(found, [0])
    assert good.ntotal == built.units[0]["items_out"]
    path = found.files("index.faiss")[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CorruptOutput, match="its bytes are not what the manifest promises"):
        load_shards(found, [0])
    assert len(load_shards(found, [1, 2])) == 2


def test_probes_are_what_the_training_wrote(tmp_path: Path) -> None:
    unit_dir = tmp_path / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    (unit_dir / "probes.json").write_text('{"num_probes":7}\n')
    assert effort_of(manifest_of(tmp_path, "vectors.train")) == Effort(num_probes=7)
