"""Learned sparse vectors by a tiny random masked language model: scores are plain products, on any shards and ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import stagerun
from manifests import chunks_of, manifest_of
from trainset import WORDS, write_model

from rag_hpc.algo.rank import bm25
from rag_hpc.algo.rank.impacts import MOST, pooled, quantized
from rag_hpc.core.comm import Comm
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.inline import same_for_any_p
from rag_hpc.models.folder import tokenizer_file
from rag_hpc.models.sparse import SparseEncoder
from rag_hpc.search import jvm, lucene
from rag_hpc.search.impacts import as_text
from rag_hpc.search.searcher import Searcher, SearchSettings
from rag_hpc.search.shards import Shards
from rag_hpc.stages.lexical import LexicalConfig
from rag_hpc.stages.registry import make_stage

TEXTS = [" ".join(WORDS[(3 * n + m * m) % len(WORDS)] for m in range(2 + n % 5)) for n in range(24)] + ["", "|  a|3"]
ASKED = ["cat on the moon", "ship", "", "zyxwv star road " * 40]
DEPTH = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 16 dimensions with a head over 30,522 words, whose bias keeps most of them out of a text."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("model")
    shutil.copy(tokenizer_file("minilm"), folder / "tokenizer.json")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    made = BertForMaskedLM(config)
    with torch.no_grad():
        made.cls.predictions.bias -= 5.0
    made.save_pretrained(folder)
    return folder


def test_weights_are_pooled_and_become_bytes() -> None:
    logits = np.array([[-1.0, 0.0, 2.0, 500.0], [3.0, -2.0, 1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(pooled(logits), np.log1p([3.0, 0.0, 2.0, 500.0]), rtol=1e-6)
    assert quantized(np.array([0.0, 0.009, 0.02, 1.0, 4.99, 7.0], np.float32)).tolist() == [0, 0, 1, 51, MOST, MOST]


def test_impacts_are_those_of_the_model_s_own_forward_pass(model: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

    text = "cat on the moon"
    tokens = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    with torch.inference_mode():
        given = tokens([text, text + " ship"], padding=True, return_tensors="pt", return_token_type_ids=False)
        logits = AutoModelForMaskedLM.from_pretrained(model).eval()(**given).logits
    weights = (torch.log1p(torch.relu(logits)) * given["attention_mask"][..., None]).amax(dim=1)[0].numpy()
    found = SparseEncoder(str(model)).impacts(text)
    want = {tokens.convert_ids_to_tokens(at): weights[at] * 256 / 5 for at in np.flatnonzero(weights).tolist()}
    assert len(found) > 100 and all(abs(min(want[term], MOST) - impact) <= 0.51 for term, impact in found.items())
    assert set(found) >= {term for term, weight in want.items() if weight > 0.51}


def test_frequencies_of_the_index_are_impacts(tmp_path: Path) -> None:
    try:
        jvm.start()
    except MissingDependency as error:
        pytest.skip(str(error))
    vectors = [{"a": 3, "##|b": 255, "#12": 1}, {}, {"a": 70000, "c": 2}]
    documents = ([str(n), as_text(one)] for n, one in enumerate(vectors))
    lucene.build_index(documents, tmp_path / "index", lucene.Indexing(analyzer=jvm.IMPACTS, term_vectors=True))
    shards = Shards([tmp_path / "index"])
    assert shards.vectors(range(3)) == vectors
    queries = [bm25.impact_query(one) for one in ({"a": 255, "c": 200, "none": 9}, {"##|b": 2, "#12": 7}, {})]
    scores, docs = shards.top(queries, 2)
    assert docs.tolist() == [[2, 0], [0, -1], [-1, -1]]
    # beyond 2^24 float32 is no whole number any more
    assert scores[0].tolist() == [float(np.float32(255 * 70000 + 400)), 765.0] and scores[1, 0] == 517.0
    shards.close()


def test_ranks_give_the_products_of_the_passages_impacts(model: Path, tmp_path: Path) -> None:
    chunks = {"chunk": chunks_of(tmp_path / "chunk", [(text, "en") for text in TEXTS], per_unit=7)}
    stage = stagerun.chain_or_skip(
        lambda: make_stage("lexical", {"kind": "impact", "model": str(model), "num_shards": 2})
    )
    built = same_for_any_p(stage, chunks, tmp_path / "run", ps=(1, 2))
    unit_dir = tmp_path / "encode" / "units" / "unit-00000"
    unit_dir.mkdir(parents=True)
    np.save(unit_dir / "vectors.npy", np.zeros((len(TEXTS), 8), dtype=np.float16))
    encoded, encoder = manifest_of(tmp_path / "encode", "encode"), SparseEncoder(str(model))
    held = [encoder.impacts(text) for text in TEXTS]

    def search(comm: Comm) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        scratch = tmp_path / f"{comm.world_size}-{comm.rank}"
        scratch.mkdir()
        searcher = Searcher(built, encoded, None, SearchSettings(depth=DEPTH), comm, scratch)
        return dict(searcher.search(ASKED, np.zeros((len(ASKED), 8))).hits)

    for world_size in (1, 3, 7):
        found, *_ = stagerun.on_ranks(world_size, search)
        for row, text in enumerate(ASKED):
            asked = encoder.impacts(text)
            products = np.array([sum(asked[t] * one[t] for t in asked.keys() & one.keys()) for one in held])
            best = [at for at in np.lexsort((np.arange(len(held)), -products)) if products[at]][:DEPTH]
            assert found["bm25"][1][row].tolist() == best + [-1] * (DEPTH - len(best))
            assert found["bm25"][0][row][: len(best)].tolist() == products[best].tolist()
        assert np.isfinite(found["fused"][0][0]).any()
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="its weights are others"):
        stagerun.on_ranks(
            1, lambda comm: Searcher(built, encoded, None, SearchSettings(), comm, tmp_path / "1-0" / "x")
        )


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "headless")
    with pytest.raises(InputError, match=r"lacks cls\.predictions"):
        SparseEncoder(str(tmp_path / "headless"))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError):
        SparseEncoder(str(tmp_path / "none"))


def test_what_impacts_do_not_go_with_is_named() -> None:
    for settings in ({"kind": "impact"}, {"model": "somewhere"}):
        with pytest.raises(ConfigError, match="need each other"):
            make_stage("lexical", settings)
    with pytest.raises(ConfigError, match="positions, term_vectors does not go"):
        make_stage("lexical", {"kind": "impact", "model": "m", "positions": True, "term_vectors": True})
    assert LexicalConfig().kind.value == "bm25"
