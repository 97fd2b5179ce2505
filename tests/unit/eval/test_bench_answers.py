"""The bench of answers: what counts as right, and that no half sees the other."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.eval.bench.answers import answers as bench
from rag_hpc.eval.bench.answers.corpora import Asked, halves
from rag_hpc.generators.base import Answer, Passage, Quote
from rag_hpc.search.answer import Answered

ASKED = Asked(query_id="q", text="Where do fish live?", answers=["water"], relevant=["fish"], ordinals=[0, 1, 2])


def answered(number: int, start: int, end: int) -> Answered:
    passages = [
        Passage(chunk_id=doc_id, doc_id=doc_id, title="", text="Fish live in water. They swim.")
        for doc_id in ("fish", "other")
    ]
    quote = Quote(number=number, start=start, end=end, score=0.9)
    return Answered(
        answer=Answer(text="", found=True, citations=[number], quotes=[quote]), passages=passages, checks=[]
    )


def test_gold_counts_only_inside_a_quote_of_its_own_document() -> None:
    assert bench.quotes_gold(ASKED, answered(1, 0, 19))
    assert not bench.quotes_gold(ASKED, answered(1, 20, 30))
    assert not bench.quotes_gold(ASKED, answered(2, 0, 19))
    assert [bench.first_document(answered(n, 0, 1)) for n in (1, 2)] == ["fish", "other"]


def test_a_question_without_its_article_keeps_the_order_of_the_others() -> None:
    corpus: Any = SimpleNamespace(doc_ids=["fish", "eel", "cat"])
    left = bench.without_article(ASKED, corpus, {"fish": "Fish", "eel": "Fish", "cat": "Cats"})
    assert left.ordinals == [2] and left.text == ASKED.text


def test_halves_share_nothing_and_stay_the_same() -> None:
    found = halves([str(n // 2) for n in range(18)])
    assert found == halves([str(n) for n in reversed(range(9))])
    assert not found["judged"] & found["chosen_by"] and len(found["judged"] | found["chosen_by"]) == 9


def test_no_text_is_encoded_twice_and_the_order_is_kept() -> None:
    seen: list[str] = []

    def encode(question: str, sentences: Sequence[str]) -> Any:
        seen.extend(sentences)
        return np.array([[float(len(text))] for text in (question, *sentences)])

    remembers = bench.remembering(encode)
    assert remembers("???", ["a", "bb", "a"]).tolist() == [[3.0], [1.0], [2.0], [1.0]]
    assert remembers("?", ["bb", "cccc"]).tolist() == [[1.0], [2.0], [4.0]] and seen == ["a", "bb", "cccc"]


def test_shares_have_an_interval_and_a_half_that_is_not_known_is_refused() -> None:
    rate, (low, high) = bench.share([True] * 30 + [False] * 10)
    assert rate == 0.75 and 0.55 < low < 0.7 and 0.8 < high < 0.95
    with pytest.raises(ConfigError, match="known: judged, chosen_by"):
        bench.run({"half": "other"})
