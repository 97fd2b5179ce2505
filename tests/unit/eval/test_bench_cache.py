"""The cache benchmark: what it changes and rewords in questions, its bound, its traffic, and that its bars can fail."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rag_hpc.algo.types import Array
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval.bench.cache import cache, changed, reworded, traffic
from rag_hpc.serve.cache import answers

ASKED = "In what year did the first army of William meet Harold, before 1066?"


class Vectors:
    """Vectors that are all alike: the cosine lets everything through."""

    def add(self, texts: list[str]) -> None:
        self.texts = texts

    def of(self, text: str) -> Array:
        return np.float32([1, 0])

    def cosines(self, pairs: list[tuple[str, str]]) -> Array:
        return np.ones(len(pairs))


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("negation", r" (did not|didn't) the first"),
        ("antonym", r"the last army|, after 1066"),
        ("entity", r"army of Edward meet Harold|William meet Edward"),
        ("number", r"before 1(?!066)\d\d\d|before \d{3}\?"),
        ("direction", r"army of Harold meet William"),
    ],
)
def test_one_thing_of_a_question_is_changed(kind: str, made: str) -> None:
    others = list(changed.changed(kind, ASKED, ["Edward", "Harold"]))
    assert others and ASKED not in others
    assert any(re.search(made, other, re.IGNORECASE) for other in others)
    assert others == list(changed.changed(kind, ASKED, ["Edward", "Harold"]))


def test_what_is_joined_by_and_is_not_swapped() -> None:
    assert list(changed.changed("direction", "When did Harold and William meet?", [])) == []
    (other,) = changed.changed("direction", "Where did Harold meet William?", [])
    assert other == "Where did William meet Harold?"


@pytest.mark.parametrize(
    ("kind", "question", "made"),
    [
        ("typing", "Who Is It?", r"who is it( \?)?"),
        ("opening", "Who is it?", r"(Can you tell me|Please tell me|Do you know) who is it\?"),
        ("contraction", "What is it?", r"What's it\?"),
        ("order", "In what city did Bob live?", r"What city did Bob live in\?"),
        ("order", "Who led them in 1066?", r"In 1066, who led them\?"),
        ("synonym", "What is it called?", r"What is it named\?"),
        ("typo", "Who is famous?", r"Who is f\w{4}\?"),
    ],
)
def test_a_question_is_put_in_other_words(kind: str, question: str, made: str) -> None:
    assert re.fullmatch(made, str(reworded.reworded(kind, question)))
    assert kind in ("typing", "typo") or reworded.reworded(kind, "Name one thing.") is None


def test_pairs_that_people_wrote_have_passage_answer_and_words_in_common() -> None:
    def row(question: str, answer: str, passage: str = "p") -> dict[str, Any]:
        return {"question": question, "answers": [answer, answer.upper()], "passage_id": passage}

    rows = [row("What is the big city?", "Rome"), row("What is the biggest city?", "Rome"), row("Where is it?", "Rome")]
    rows += [row("What is the big city?", "Bonn"), row("What is the big town?", "Rome", "q")]
    assert list(reworded.written_pairs(rows)) == [("What is the big city?", "What is the biggest city?")]


def test_the_cache_itself_says_what_is_a_hit_and_a_gate_that_is_open_misses_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"title": "t", "passage_id": "p", "answers": []}
    rows = [{"question": f"Who led army {n} in 1066?", **other} for n in range(320)]
    half = cache.Half(rows, {"t": []}, {"t": ["text"]})
    row = cache._false("number", half, Vectors(), 320, "judge")  # type: ignore[arg-type]
    assert row.met and row.ours < 0.01 and row.note.endswith("; 0 let through")
    assert row.peers == {"cosine >= 0.8 alone": 1.0, "cosine >= 0.98 alone": 1.0}
    monkeypatch.setattr(answers, "signature", lambda text: re.sub(r"\d+|\bone\b", "", text.lower()))
    assert cache._false("number", half, Vectors(), 320, "judge").met is False  # type: ignore[arg-type]
    with pytest.raises(InputError, match="9999 are asked for"):
        cache._false("number", half, Vectors(), 9999, "judge")  # type: ignore[arg-type]


def test_the_bound_is_clopper_and_pearson_s() -> None:
    assert cache.upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299)) and cache.upper(0, 299) < 0.01
    assert cache.upper(0, 298) > 0.01 and cache.upper(3, 3) == 1.0


def test_traffic_follows_zipf_and_is_the_same_again() -> None:
    asked = traffic.Asked(4000, 1.0, 0.3)
    questions = [f"In what city did person {n} live?" for n in range(100)]
    stream = traffic.stream(questions, asked)
    assert stream == traffic.stream(questions, asked)
    counts = sorted((sum(of == question for of, _ in stream) for question in questions), reverse=True)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.4)
    others = sum(of != text for of, text in stream) / len(stream)
    assert 0.1 < others < 0.3  # some rules do not fit


@pytest.mark.parametrize(("options", "said"), [({"part": "fals"}, "part= takes"), ({"half": "all"}, "half= takes")])
def test_wrong_options_are_told(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cache.run({"data": "/none", **options})
