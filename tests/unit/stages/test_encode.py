"""encode: one float16 vector a chunk, those that sentence-transformers gives for the heading and the text."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stagerun
from chatserver import ChatServer

from rag_hpc.core.comm import Comm
from rag_hpc.core.hashing import hash_file
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.inline import same_for_any_p
from rag_hpc.models.folder import model_folder
from rag_hpc.stages import encode
from rag_hpc.stages.registry import make_stage
from rag_hpc.stores.chunks import ChunkStore
from rag_hpc.stores.vectors import VectorStore, read_facts


def test_vectors_are_those_of_sentence_transformers(chain: stagerun.Chain) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(model_folder("minilm")), device="cpu", local_files_only=True)
    rows = chain.table("chunk", "chunks.parquet")[:40]
    texts = [f"{row['heading']}\n{row['text']}" if row["heading"] else row["text"] for row in rows]
    want = theirs.encode(texts, normalize_embeddings=True)
    got = np.concatenate([np.load(p) for p in chain.out["encode"].files("vectors.npy")[:2]])[:40].astype(np.float32)
    cosine = (got * want).sum(1) / np.linalg.norm(got, axis=1)
    assert cosine.min() > 0.999
    assert len({row["heading"] for row in rows}) > 5


def test_units_are_cut_by_tokens_and_their_rows_are_the_chunks_of_their_ordinals(chain: stagerun.Chain) -> None:
    wanted = chain.settings["encode"]["tokens_per_unit"]
    lengths = ChunkStore(chain.out["chunk"]).num_tokens()
    sizes = chain.out["encode"].rows("vectors.npy")
    assert sum(sizes) == len(lengths) and len(sizes) > 3
    tokens = [part.sum() for part in np.split(lengths, np.cumsum(sizes)[:-1])]
    assert max(tokens) < wanted + lengths.max() and min(tokens[:-1]) > wanted - lengths.max()
    for path in chain.out["encode"].files("vectors.npy"):
        vectors = np.load(path, allow_pickle=False)
        assert vectors.dtype == np.float16 and vectors.shape[1] == 384
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)


def test_large_corpus_has_larger_units_instead_of_more_than_a_run_takes(
    chain: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "MAX_UNITS", 5)
    units = make_stage("encode", {"tokens_per_unit": 1}).plan(chain.out, tmp_path)
    assert 3 < len(units) <= 5


def test_size_of_units_moves_vectors_by_rounding_only(chain: stagerun.Chain, tmp_path: Path) -> None:
    out = stagerun.run_alone("encode", {"tokens_per_unit": 700}, chain.out, tmp_path)
    ours = np.load(out / "vectors.npy").astype(np.float32)
    theirs = np.concatenate([np.load(p) for p in chain.out["encode"].files("vectors.npy")])[: len(ours)]
    assert (ours * theirs).sum(1).min() > 0.999


def test_prefix_and_dimensions_shape_the_vectors_and_are_written_down(chain: stagerun.Chain, tmp_path: Path) -> None:
    found = chain.again("encode", tmp_path / "run", prefix="passage: ", dims=96)
    whole, plain = VectorStore(found).rows(0, 9), VectorStore(chain.out["encode"]).rows(0, 9)
    assert whole.shape == (9, 96) and np.abs(whole - plain[:, :96]).max() > 0.02
    facts = read_facts(found)
    assert facts["dims"] == 96 and facts["pooling"] == "mean" and len(facts["weights"]) == 64
    assert facts["precision"] in ("float32", "bfloat16") and facts["tier"] == "exact"
    with pytest.raises(ConfigError, match=r"differs from that of the passages in dims.*stage.queries"):
        stagerun.run_stage(
            tmp_path, "retrieve.queries", chain.settings["retrieve.queries"], chain.out | {"encode": found}
        )


def test_prefix_that_makes_passages_too_long_is_refused_when_planned(front: stagerun.Chain, tmp_path: Path) -> None:
    made = front.again("chunk", tmp_path / "run", max_tokens=254, heading_tokens=0)
    with pytest.raises(ConfigError, match=r"with 6 of stage.encode.prefix.*set stage.chunk.max_tokens=250"):
        make_stage("encode", {"prefix": "to be found: "}).plan({"chunk": made}, tmp_path)


def test_units_of_several_kinds_of_processors_are_refused_unless_allowed(chain: stagerun.Chain, tmp_path: Path) -> None:
    mixed = {}
    for allowed in (False, True):
        found = chain.again("encode", tmp_path / str(allowed), allow_mixed=allowed)
        path = found.unit_dir(2) / "encoder.json"
        path.write_text(path.read_text().replace('"device":"', '"device":"other-'))
        units = copy.deepcopy(found.units)
        units[2]["files"]["encoder.json"] |= {"sha256": hash_file(path), "bytes": path.stat().st_size}
        mixed[allowed] = dataclasses.replace(found, units=units)
    with pytest.raises(ConfigError, match=r"unit 0 was made with .* unit 2 with .*other-.*allow_mixed=true"):
        VectorStore(mixed[False])
    assert len(VectorStore(mixed[True])) == len(VectorStore(chain.out["encode"]))


def test_rank_of_another_kind_of_processor_does_not_begin(front: stagerun.Chain, tmp_path: Path) -> None:
    def setup(comm: Comm) -> None:
        stage = make_stage("encode", {})
        ctx = stagerun.context(front.out, tmp_path, comm)
        stage.setup(ctx)
        stage._encoder.facts = lambda: {"rank": comm.rank}  # type: ignore[attr-defined]
        stage._agree(ctx)  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match=r"this rank would encode with .*cluster.constraint"):
        stagerun.on_ranks(2, setup)


def test_vector_that_is_not_finite_stops_its_unit_and_names_the_chunk(front: stagerun.Chain, tmp_path: Path) -> None:
    stage = make_stage("encode", {})
    ctx = stagerun.context(front.out, tmp_path)
    stage.setup(ctx)
    real = stage._encoder.encode  # type: ignore[attr-defined]

    def broken(*args: Any, **more: Any) -> Any:
        vectors = real(*args, **more)
        vectors[3, 5] = np.nan
        return vectors

    stage._encoder.encode = broken  # type: ignore[attr-defined]
    (chunk,) = ChunkStore(front.out["chunk"]).rows([3], ["chunk_id"])
    with pytest.raises(InputError, match=rf"vector of chunk {chunk['chunk_id']} .* is not finite, and 0 more"):
        stage.run(stage.plan(front.out, tmp_path)[0], tmp_path, ctx)
    assert not (tmp_path / "vectors.npy").exists()


def test_passage_longer_than_the_model_reads_is_refused_not_cut(front: stagerun.Chain, tmp_path: Path) -> None:
    made = front.again("chunk", tmp_path / "run", max_tokens=254, heading_tokens=0)
    stage = make_stage("encode", {})
    ctx = stagerun.context({"chunk": made}, tmp_path)
    stage.setup(ctx)
    stage._encoder.max_tokens = 64  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"the limit is 64; cut chunks smaller"):
        stage.run(stage.plan({"chunk": made}, tmp_path)[0], tmp_path, ctx)


def test_gpu_that_the_job_holds_and_torch_cannot_use_is_refused_at_the_start(
    front: stagerun.Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("torch can use a GPU here")
    monkeypatch.setenv("SLURM_JOB_GPUS", "3")
    stage, ctx = make_stage("encode", {}), stagerun.context(front.out, tmp_path)
    with pytest.raises(ConfigError, match=r"SLURM_JOB_GPUS=3, but torch .* finds 0 GPUs") as raised:
        stage.setup(ctx)
    assert raised.value.exit_code == 2
    make_stage("encode", {"device": "cpu"}).setup(ctx)


def test_absent_model_is_an_input_error(front: stagerun.Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        make_stage("encode", {"model": str(tmp_path / "none")}).setup(stagerun.context(front.out, tmp_path))


def test_an_endpoint_stands_in_for_the_model_and_local_runs_keep_their_name(
    chain: stagerun.Chain, tmp_path: Path
) -> None:
    def embed(text: str) -> list[float]:
        return [float(text.count(letter)) + 0.5 for letter in "aeiou"]

    with ChatServer() as server:
        server.embed = embed
        remote = {"name": "openai", "base_url": server.url, "model": "m", "batch": 16}
        settings = {**chain.settings["encode"], "encoder": remote}
        found = same_for_any_p(make_stage("encode", settings), chain.out, tmp_path)
        asked = {**chain.settings["retrieve.queries"], "encoder": remote}
        inputs = {**{name: chain.out[name] for name in ("dedup.drop", "chunk")}, "encode": found}
        queries = stagerun.run_stage(tmp_path / "q", "retrieve.queries", asked, inputs)
    vectors_ND = np.concatenate([np.load(path) for path in found.files("vectors.npy")]).astype(np.float32)
    assert vectors_ND.shape == (chain.out["encode"].total("items_out"), 5)
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(np.ones(len(vectors_ND)), abs=2e-3)
    assert np.load(queries.files("vectors.npy")[0]).shape[1] == 5
    units = make_stage("encode", settings).plan(chain.out, tmp_path)
    assert {unit.inputs["encoder"]["model"] for unit in units} == {"m"}
    assert "encoder" not in make_stage("encode", chain.settings["encode"]).plan(chain.out, tmp_path)[0].inputs
    with pytest.raises(ConfigError, match="the queries' encoder differs from that of the passages"):
        stagerun.run_stage(tmp_path / "other", "retrieve.queries", chain.settings["retrieve.queries"], inputs)


class Passages:
    """Three chunks of one text, as a ChunkStore gives them."""

    _text = ""

    def __init__(self, manifest: Any) -> None:
        pass

    def __len__(self) -> int:
        return 3

    def num_tokens(self) -> Any:
        return np.array([5, 5, 5])

    def rows(self, ordinals: list[int], columns: list[str]) -> list[dict[str, Any]]:
        return [{"text": self._text} for _ in ordinals]


@pytest.mark.parametrize(
    ("text", "warned"), [("The port was rebuilt.", False), ("กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุด", True)]
)
def test_a_plan_warns_of_a_language_that_the_encoder_has_no_tokens_for(
    text: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encode, "ChunkStore", Passages)
    chunks: Any = SimpleNamespace(config={"model": "minilm", "max_tokens": 254})
    monkeypatch.setattr(Passages, "_text", text)
    assert len(make_stage("encode", {}).plan({"chunk": chunks}, Path())) == 1
    assert any("has no tokens for" in record.getMessage() for record in caplog.records) == warned
