"""encode: one float16 vector a chunk, those that sentence-transformers gives for the heading and the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stagerun

from rag_hpc.core.chunkstore import ChunkStore
from rag_hpc.encoder import model_folder
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.stages.registry import make_stage


def test_vectors_are_those_of_sentence_transformers(chain: stagerun.Chain) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(model_folder("minilm")), device="cpu", local_files_only=True)
    rows = chain.table("chunk", "chunks.parquet")[:40]
    texts = [f"{row['heading']}\n{row['text']}" if row["heading"] else row["text"] for row in rows]
    want = theirs.encode(texts, normalize_embeddings=True)
    got = np.concatenate([np.load(p) for p in chain.out["encode"].files("vectors.npy")[:2]])[:40].astype(np.float32)
    cosine = (got * want).sum(1) / np.linalg.norm(got, axis=1)
    assert cosine.min() > 0.9999
    assert len({row["heading"] for row in rows}) > 5


def test_row_of_a_unit_is_the_chunk_of_its_ordinal(chain: stagerun.Chain) -> None:
    rows_per_unit = chain.settings["encode"]["rows_per_unit"]
    num_rows = len(ChunkStore(chain.out["chunk"]))
    sizes = chain.out["encode"].rows("vectors.npy")
    assert sum(sizes) == num_rows and set(sizes[:-1]) == {rows_per_unit} and 0 < sizes[-1] <= rows_per_unit
    for path in chain.out["encode"].files("vectors.npy"):
        vectors = np.load(path, allow_pickle=False)
        assert vectors.dtype == np.float16 and vectors.shape[1] == 384
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)


def test_size_of_units_moves_vectors_by_rounding_only(chain: stagerun.Chain, tmp_path: Path) -> None:
    out = stagerun.run_alone("encode", {"rows_per_unit": 30}, chain.out, tmp_path)
    ours = np.load(out / "vectors.npy").astype(np.float32)
    theirs = np.concatenate([np.load(p) for p in chain.out["encode"].files("vectors.npy")])[:30].astype(np.float32)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_passage_longer_than_the_model_reads_is_refused_not_cut(front: stagerun.Chain, tmp_path: Path) -> None:
    made = front.again("chunk", tmp_path / "run", max_tokens=254, heading_tokens=0)
    stage = make_stage("encode", {})
    ctx = stagerun.context({"chunk": made}, tmp_path)
    stage.setup(ctx)
    stage._encoder.max_tokens = 64  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"the limit is 64; cut chunks smaller"):
        stage.run(stage.plan({"chunk": made}, tmp_path)[0], tmp_path, ctx)


def test_absent_model_is_an_input_error(front: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        make_stage("encode", {"model": str(tmp_path / "none")}).setup(stagerun.context(front.out, tmp_path))
