"""A FAISS index that another tool made is taken into a run under its ordinals, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank.topk import exact_topk
from rag_hpc.core.comm import SerialComm
from rag_hpc.core.manifest import Manifest
from rag_hpc.errors import ConfigError, InputError, UnitFailed
from rag_hpc.search.ann import Ann
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VectorStore

faiss = pytest.importorskip("faiss")
METRIC = faiss.METRIC_INNER_PRODUCT


def _ivf(dims: int, rows: Any, fp16: bool) -> Any:
    quantizer = faiss.IndexFlatIP(dims)
    if fp16:
        index = faiss.IndexIVFScalarQuantizer(quantizer, dims, 6, faiss.ScalarQuantizer.QT_fp16, METRIC, False)
    else:
        index = faiss.IndexIVFFlat(quantizer, dims, 6, METRIC)
    index.cp.min_points_per_centroid = 1
    index.train(rows)
    return index


KINDS: dict[str, Callable[[int, Any], Any]] = {
    "flat": lambda dims, rows: faiss.IndexFlatIP(dims),
    "hnsw": lambda dims, rows: faiss.IndexHNSWFlat(dims, 16, METRIC),
    "ivf_flat": lambda dims, rows: _ivf(dims, rows, False),
    "ivf_fp16": lambda dims, rows: _ivf(dims, rows, True),
}


def rows_of(chain: stagerun.Chain) -> Any:
    store = VectorStore(chain.out["encode"])
    return store.rows(0, len(store)).astype(np.float32)


def written(folder: Path, index: Any, rows: Any, ids: list[str]) -> Path:
    """A folder as Pyserini's FaissSearcher takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    index.add(np.ascontiguousarray(rows))
    faiss.write_index(index, str(folder / "index"))
    (folder / "docid").write_text("".join(f"{name}\n" for name in ids))
    return folder


def taken_in(chain: stagerun.Chain, folder: Path, run_dir: Path, **settings: Any) -> Manifest:
    whole = {**chain.settings["vectors.build"], "prebuilt": str(folder), **settings}
    inputs = {name: chain.out[name] for name in ("encode", "chunk")}
    inputs["vectors.train"] = stagerun.run_stage(run_dir, "vectors.train", whole, inputs)
    return stagerun.run_stage(run_dir, "vectors.build", whole, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_made_elsewhere_answers_under_the_run_s_ordinals(
    kind: str, chain: stagerun.Chain, tmp_path: Path
) -> None:
    rows, ids = rows_of(chain), ChunkStore(chain.out["chunk"]).column("chunk_id")
    order = np.random.default_rng(2).permutation(len(rows))
    folder = written(tmp_path / kind, KINDS[kind](rows.shape[1], rows), rows[order], [ids[i] for i in order])
    built = taken_in(chain, folder, tmp_path / "run", num_probes=6, ef_search=200)
    assert len(built.units) == 1 and built.total("items_out") == len(rows)
    searched = Ann(built, VectorStore(chain.out["encode"]).rows(0, len(rows)), 0, SerialComm())
    assert searched.effort.kind.value == kind
    asked = rows[::7]
    scores, found = searched.search(asked, 10)
    exact = exact_topk(asked, rows, 10)
    assert found.tolist() == exact[1].tolist() and scores.tobytes() == exact[0].tobytes()


def test_an_index_that_does_not_fit_is_refused_by_name(chain: stagerun.Chain, tmp_path: Path) -> None:
    rows, ids = rows_of(chain), ChunkStore(chain.out["chunk"]).column("chunk_id")
    dims = rows.shape[1]
    others = np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cases = {
        "ids": (faiss.IndexFlatIP(dims), rows, ["stranger", *ids[1:]], rf"1 are no chunk_id .* \(stranger, {ids[0]}\)"),
        "few": (faiss.IndexFlatIP(dims), rows[:-1], ids[:-1], r"1 of its \d+ passages are not there"),
        "twice": (faiss.IndexFlatIP(dims), rows, [*ids[:-1], ids[0]], "passages are not there"),
        "dims": (faiss.IndexFlatIP(8), rows[:, :8], ids, f"8 dimensions, this run's {dims}"),
        "encoder": (faiss.IndexFlatIP(dims), others, ids, "of another encoder, prefix, or text"),
        "metric": (faiss.IndexFlatL2(dims), rows, ids, "IndexFlatL2 by another metric is not searched here"),
        "kind": (faiss.IndexLSH(dims, 64), rows, ids, "IndexLSH by another metric"),
        "probes": (_ivf(dims, rows, False), rows, ids, r"6 lists .* set stage\.vectors\.num_probes"),
    }
    for name, (index, vectors, names, told) in cases.items():
        folder = written(tmp_path / name, index, vectors, names)
        with pytest.raises((InputError, UnitFailed, ConfigError), match=f"(?s){told}"):
            taken_in(chain, folder, tmp_path / f"run-{name}", num_probes=0)
    (tmp_path / "broken").mkdir()
    with pytest.raises(ConfigError, match="docid not there"):
        (tmp_path / "broken/index").write_bytes(b"no index")
        make_stage("vectors.train", {"prebuilt": str(tmp_path / "broken")}).plan(chain.out, tmp_path)
    (tmp_path / "broken/docid").write_text("a\n")
    with pytest.raises((InputError, UnitFailed), match="FAISS cannot read"):
        taken_in(chain, tmp_path / "broken", tmp_path / "run-broken")
