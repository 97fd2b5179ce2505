"""The own forward pass gives transformers' vectors, for every shape that it knows, whatever stands beside a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_hpc.errors import InputError
from rag_hpc.models.device import Precision, resolve_precision
from rag_hpc.models.forward import Forward
from rag_hpc.models.library import LibraryForward
from rag_hpc.models.packed import Packed
from rag_hpc.models.shape import read_shape

torch = pytest.importorskip("torch")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
KINDS = {  # name -> (transformers' class, settings of its own)
    "bert": ("Bert", SIZES),
    "bert-tanh": ("Bert", SIZES | {"hidden_act": "gelu_new"}),
    "roberta": ("Roberta", SIZES | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("XLMRoberta", SIZES | {"pad_token_id": 1, "type_vocab_size": 1, "hidden_act": "relu"}),
    "mpnet": ("MPNet", SIZES | {"pad_token_id": 1}),
    "distilbert": ("DistilBert", DISTIL),
}
LENGTHS = (3, 150, 150, 1, 40)
COMMON = {"vocab_size": 60, "max_position_embeddings": 160, "initializer_range": 0.5}


def made(kind: str, folder: Path, head: str = "Model") -> Path:
    """Write a random network of that kind, and return its folder."""
    import transformers

    name, settings = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **settings, num_labels=2)
    getattr(transformers, f"{name}{head}")(config).save_pretrained(folder)
    return folder


def packed(lengths: tuple[int, ...] = LENGTHS, *, pairs: bool = False) -> Packed:
    rng = np.random.default_rng(7)
    texts = [rng.integers(1, 60, num, dtype=np.int32) for num in lengths]  # 1 is a padding token within a text
    types = [(np.arange(num) > num // 2).astype(np.int32) for num in lengths]
    return Packed.of(texts, types if pairs else None)


def cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def theirs(folder: Path, texts: Packed, *, head: bool = False) -> Any:
    """Return what transformers makes of each text alone, without padding."""
    model = LibraryForward(folder, "float32", "cpu", head=head)
    cuts = np.split(texts.ids_T, texts.first_B[1:])
    kinds = [None] * len(cuts) if texts.types_T is None else np.split(texts.types_T, texts.first_B[1:])
    alone = [Packed.of([ids], None if kind is None else [kind]) for ids, kind in zip(cuts, kinds, strict=True)]
    return torch.cat([(model.logits if head else model.hidden)(text) for text in alone]).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_all_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    shape = read_shape(folder)
    assert shape is not None and shape.kind == kind.removesuffix("-tanh")
    want = theirs(folder, packed())
    got = Forward(shape, folder, "float32", "cpu").hidden(packed()).numpy()
    assert got.shape == (sum(LENGTHS), 16) and cosines(got, want).min() > 0.99999
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "distilbert"])
def test_logits_of_pairs_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path, head="ForSequenceClassification")
    shape = read_shape(folder)
    texts = packed(pairs=kind == "bert")
    assert shape is not None and shape.num_labels == 2
    got = Forward(shape, folder, "float32", "cpu", head=True).logits(texts).numpy()
    np.testing.assert_allclose(got, theirs(folder, texts, head=True), atol=2e-5)


def test_a_text_s_vector_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    folder = made("bert", tmp_path)
    shape = read_shape(folder)
    assert shape is not None
    network = Forward(shape, folder, "float32", "cpu")
    whole = np.split(network.hidden(packed()).numpy(), packed().first_B[1:])
    for at, ids in enumerate(np.split(packed().ids_T, packed().first_B[1:])):
        np.testing.assert_allclose(network.hidden(Packed.of([ids])).numpy(), whole[at], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "distilbert"])
def test_first_tokens_alone_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    shape = read_shape(folder)
    assert shape is not None
    whole = Forward(shape, folder, "float32", "cpu").hidden(packed())[packed().first_B]
    got = Forward(shape, folder, "float32", "cpu", firsts=True).firsts(packed())
    np.testing.assert_allclose(got.numpy(), whole.numpy(), atol=1e-5)
    np.testing.assert_allclose(LibraryForward(folder, "float32", "cpu").firsts(packed()), whole, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("num_threads", [1, 2])  # one: with kernels of ours
def test_half_precision_is_near_on_one_thread_and_on_several(kind: str, num_threads: int, tmp_path: Path) -> None:
    if resolve_precision(Precision.auto, "cpu") is Precision.float32:
        pytest.skip("this CPU has no fast bfloat16")
    folder, before = made(kind, tmp_path), torch.get_num_threads()
    shape = read_shape(folder)
    assert shape is not None and sum(LENGTHS) > 256
    want = Forward(shape, folder, "float32", "cpu").hidden(packed()).numpy()
    torch.set_num_threads(num_threads)
    try:
        network = Forward(shape, folder, "bfloat16", "cpu")
        got = [network.hidden(packed()).float().numpy() for _ in range(2)]
        firsts = Forward(shape, folder, "bfloat16", "cpu", firsts=True).firsts(packed()).float().numpy()
    finally:
        torch.set_num_threads(before)
    assert got[0].tobytes() == got[1].tobytes()
    assert cosines(got[0], want).min() > 0.98 and cosines(got[0], want).mean() > 0.9995
    assert cosines(firsts, want[packed().first_B]).min() > 0.98


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Electra", {"embedding_size": 16}), ("Qwen3", {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0})],
)
def test_padded_batches_of_other_networks_are_packed_again(kind: str, settings: dict[str, int], tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**COMMON, **SIZES, **settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    assert read_shape(tmp_path) is None
    got = LibraryForward(tmp_path, "float32", "cpu").hidden(packed()).numpy()
    np.testing.assert_allclose(got, theirs(tmp_path, packed()), atol=1e-5)


@pytest.mark.parametrize("changes", [{"hidden_act": "silu"}, {"position_embedding_type": "relative_key"}])
def test_part_that_the_own_forward_lacks_is_left_to_transformers(changes: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 60, **SIZES, **changes}))
    assert read_shape(tmp_path) is None


def test_weights_that_are_absent_or_cut_are_named(tmp_path: Path) -> None:
    folder = made("bert", tmp_path / "whole")
    shape = read_shape(folder)
    assert shape is not None
    with pytest.raises(InputError, match=r"lack classifier\.weight"):
        Forward(shape, folder, "float32", "cpu", head=True)
    cut = shutil.copytree(folder, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be loaded"):
        Forward(shape, cut.parent, "float32", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the GPU's forward pass is not tried")
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_gives_the_vectors_of_the_cpu(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path)
    shape = read_shape(folder)
    assert shape is not None
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.99)):
        got = Forward(shape, folder, precision, "cuda:0").hidden(packed()).float().cpu().numpy()
        want = Forward(shape, folder, "float32", "cpu").hidden(packed()).numpy()
        assert cosines(got, want).min() > least
        firsts = Forward(shape, folder, precision, "cuda:0", firsts=True).firsts(packed()).float().cpu().numpy()
        np.testing.assert_allclose(firsts, got[packed().first_B], atol=1e-4 if precision == "float32" else 0.05)
