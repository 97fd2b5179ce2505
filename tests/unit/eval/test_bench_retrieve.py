"""The retrieval benchmark: filtered recall, and a side in its process that answers batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.commit import UNITS
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import InputError
from rag_hpc.eval.bench.retrieve import filters, made, retrieve, side
from rag_hpc.eval.bench.vectors.data import array_path
from rag_hpc.eval.bench.vectors.ranks import manifest_of
from rag_hpc.search.ann import Ann
from rag_hpc.stores.questions import write_questions
from rag_hpc.stores.vectors import VectorStore, write_vectors


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """2,000 vectors around 40 centres in an ivf_fp16, all of whose lists are probed, and 30 questions."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    centres = rng.standard_normal((40, 32))
    rows, asked = (centres[rng.integers(0, 40, num)] + 0.5 * rng.standard_normal((num, 32)) for num in (2000, 30))
    for stage in ("encode", "retrieve.queries"):
        (folder / stage / UNITS / "unit-00000").mkdir(parents=True)
    write_vectors(folder / "encode" / UNITS / "unit-00000", rows.astype(np.float16))
    named = [{"id": str(n), "text": ""} for n in range(len(asked))]
    write_questions(folder / "retrieve.queries" / UNITS / "unit-00000", named, asked.astype(np.float16))
    np.save(array_path(folder, "queries"), asked.astype(np.float32))
    found = {name: manifest_of(name, folder / name) for name in ("encode", "retrieve.queries")}
    settings = {"index": "ivf_fp16", "num_shards": 2, "num_lists": 8, "num_probes": 8, "iterations": 2}
    return folder, made.indexed(found, settings, folder)


def test_recall_is_of_what_the_filter_lets_through(inputs: tuple[Path, dict[str, Manifest]]) -> None:
    rows = filters.rows(inputs[1], 0.95, "2,000 rows")
    assert [row.name for row in rows] == ["retrieve.filter.1%", "retrieve.filter.10%", "retrieve.filter.50%"]
    assert all(row.ours == 1.0 and row.met for row in rows)
    assert [int(row.note.split(", ")[1].split()[0].replace(",", "")) for row in rows] == sorted(
        int((np.random.default_rng(0).random(2000) < share).sum()) for share in filters.SHARES
    )


@pytest.mark.parametrize("name", ["faiss", "group"])
def test_a_side_answers_batches_until_it_is_told_to_end(name: str, inputs: tuple[Path, dict[str, Manifest]]) -> None:
    folder, found = inputs
    with retrieve._process([sys.executable, "-m", side.__name__, name, str(folder), "1"]) as ask:
        told = [ask() for _ in range(2)]
    assert all(one["wall"] > 0 and one["cpu"] >= 0 for one in told)
    ids = np.load(array_path(folder, name))
    queries = np.load(array_path(folder, "queries"))
    index = Ann(found["vectors.build"], VectorStore(found["encode"]).rows(0, 2000), 0, SerialComm())
    ours = index.search(queries, side.DEPTH)[1]
    assert ids.shape == ours.shape == (30, 100)
    assert np.mean([len({*a} & {*b}) for a, b in zip(ids.tolist(), ours.tolist(), strict=True)]) > 99


def test_without_its_data_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_HPC_DATA", raising=False)
    with pytest.raises(InputError, match="RAG_HPC_DATA"):
        retrieve.run({})
