"""Chunks of texts without spaces, of which a tokenizer knows nothing or each letter."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from rag_hpc.algo.chunk.chunking import Tokens, chunk_spans
from rag_hpc.algo.chunk.structure import find_breaks
from rag_hpc.algo.text.words import CLUSTER, MARKS

WORD = {
    "zh": "老灯塔建于一百年前站在海港",
    "ja": "むかしのとうだいはひゃくねんまえ",
    "th": "ประเทศไทยตั้งอยู่ในเอเชีย",
    "lo": "ປະພາຄານເກົ່າສ້າງຂຶ້ນ",
    "km": "ប៉មភ្លើងហ្វារចាស់ត្រូវបាន",
    "my": "မီးပြတိုက်ဟောင်းကိုလွန်ခဲ့သော",
}
ROOM = 60
MARK = re.compile(f"[{MARKS}]")


@dataclass
class Limit:
    def room(self, start: int) -> int:
        return ROOM

    def num_tokens(self, start: int, end: int) -> int:
        return 1


def unknown(text: str) -> Tokens:
    """Return each run between spaces as one token, as a tokenizer has what it does not know."""
    starts = [0, *(at + 1 for at, char in enumerate(text) if char == " ")]
    return Tokens(starts_T=np.array(starts, dtype=np.int64), is_word_T=np.ones(len(starts), dtype=np.bool_))


def pieces(text: str, overlap: int = 0) -> list[str]:
    spans = chunk_spans(text, unknown(text), find_breaks(text), Limit(), overlap_tokens=overlap)
    return [text[span.start : span.end] for span in spans]


@pytest.mark.parametrize("language", WORD)
@pytest.mark.parametrize("overlap", [0, 10])
def test_no_chunk_has_more_letters_than_the_limit_and_none_is_cut_off_its_marks(language: str, overlap: int) -> None:
    text = WORD[language] * 130
    found = pieces(text, overlap)
    assert max(len(CLUSTER.findall(piece)) for piece in found) <= ROOM
    assert not any(MARK.match(piece) for piece in found)
    assert sum(len(CLUSTER.findall(piece)) for piece in found) >= len(CLUSTER.findall(text))
    if not overlap:
        assert "".join(found) == text


def test_cuts_stand_at_the_ends_of_thai_sentences_where_these_fit() -> None:
    sentence = "ประเทศไทยตั้งอยู่ในเอเชียตะวันออก"
    assert set(pieces(" ".join([sentence] * 40))) == {f"{sentence} {sentence}"}


def test_tokens_of_a_few_letters_are_left_as_they_are() -> None:
    text = " ".join(["กรุงเทพ"] * ROOM)
    assert pieces(text) == [text]
