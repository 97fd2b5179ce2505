"""Whether an encoder knows a corpus shows without a question: it finds passages again, or it does not."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stagerun

from rag_hpc.algo.rank.fusion import dense_weight
from rag_hpc.algo.types import Array
from rag_hpc.core.comm import SerialComm
from rag_hpc.models.tokens import TokenCounter
from rag_hpc.search.searcher import Searcher, SearchSettings, knowledge
from rag_hpc.search.trial import found_again, known_share


class Passages:
    """Texts with the vectors of an encoder, as the two stores give them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, ordinals: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return [{"text": self.texts[i], "num_tokens": len(self.texts[i].split())} for i in ordinals]

    def take(self, ordinals: Array) -> Array:
        return by_words([self.texts[i] for i in ordinals])


def by_words(texts: Sequence[str]) -> Array:
    """Return vectors of counts of words: an encoder that knows every language."""
    vectors = np.zeros((len(texts), 512), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row, zlib.crc32(word.encode()) % 512] += 1
    return vectors / np.maximum(1e-9, np.linalg.norm(vectors, axis=1, keepdims=True))


def noise(texts: Sequence[str]) -> Array:
    """Return what an encoder says of a language that it does not know."""
    return np.random.default_rng(0).standard_normal((len(texts), 512)).astype(np.float32)


def texts_of(num: int, num_words: int) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(f"w{n}" for n in rng.integers(0, 3000, num_words)) for _ in range(num)]


def test_an_encoder_that_knows_the_language_finds_passages_again_and_one_that_does_not_finds_few() -> None:
    for num in (40, 1000):
        passages: Any = Passages(texts_of(num, 120))
        assert found_again(passages, passages, by_words) == 1.0
        assert 0.0 < (found_again(passages, passages, noise) or 1.0) < 0.25


def test_a_copy_is_as_good_as_the_passage_itself() -> None:
    text = texts_of(1, 120)[0]
    passages: Any = Passages([f"{text} {n}" for n in range(40)])
    assert found_again(passages, passages, noise) == 1.0


@pytest.mark.parametrize("texts", [[], texts_of(15, 120), texts_of(100, 99)])
def test_too_few_or_too_short_passages_do_not_tell(texts: list[str]) -> None:
    passages: Any = Passages(texts)
    assert found_again(passages, passages, noise) is None


def test_what_has_no_tokens_is_not_known_however_it_is_found_again() -> None:
    passages: Any = Passages(texts_of(100, 120))
    few: Any = Passages(texts_of(3, 120))
    for unknown, known, of_few in ((0.0, 1.0, None), (0.05, 1.0, None), (0.4, 0.6, 0.6), (0.95, 0.0, 0.0)):
        assert known_share(passages, passages, by_words, lambda texts, share=unknown: share) == known
        assert known_share(few, few, by_words, lambda texts, share=unknown: share) == of_few
    assert dense_weight(0.3, 0.0) == 0.0 < dense_weight(0.3, 0.1)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("The port was rebuilt after the flood.", 0.0, 0.0),
        ("Der Hafen wurde nach der Flut wieder aufgebaut, größer als zuvor.", 0.0, 0.0),
        ("กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย", 0.9, 1.0),
        ("ភ្នំពេញជារាជធានីនិងជាទីក្រុងធំជាងគេ", 0.9, 1.0),
        ("ຕັ້ງຢູ່ແຄມແມ່ນ້ຳຂອງ", 0.9, 1.0),
        ("老灯塔建于一百年前，站在海港北边的礁石上。", 0.2, 0.9),
        ("", 0.0, 0.0),
    ],
)
def test_unknown_letters_are_counted_however_many_a_token_holds(text: str, least: float, most: float) -> None:
    assert least <= TokenCounter("minilm").unknown_share([text]) <= most


@pytest.fixture(scope="module")
def chain() -> stagerun.Chain:
    return stagerun.chain_or_skip()


def test_a_run_with_short_passages_trusts_its_encoder(chain: stagerun.Chain) -> None:
    assert knowledge(chain.out) is None and knowledge({}) is None


def test_its_vectors_then_count_less(chain: stagerun.Chain, tmp_path: Path) -> None:
    out, texts = chain.out, ["zyxwv and a stable sort"]
    vectors = np.ones((1, 384), dtype=np.float32) / np.sqrt(384.0)
    found = {}
    for known, weight in ((0.1, None), (1.0, 0.3), (1.0, None)):
        settings, scratch = SearchSettings(depth=15, dense_weight=weight), tmp_path / f"{known}-{weight}"
        scratch.mkdir()
        searcher = Searcher(out["lexical"], out["encode"], None, settings, SerialComm(), scratch, known)
        found[known, weight] = searcher.search(texts, vectors).hits["fused"][0].tobytes()
    assert found[0.1, None] == found[1.0, 0.3] != found[1.0, None]
