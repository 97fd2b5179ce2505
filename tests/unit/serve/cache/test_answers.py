"""A question in other words gets the answer that is there, once it is known that such hits hold."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest

from rag_hpc.algo.types import Array
from rag_hpc.serve.cache.answers import Answers, same_answer
from rag_hpc.serve.cache.cache import Cache, Got
from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind, Scope
from rag_hpc.serve.cache.trial import Trial, upper_bound

SCOPE = Scope(tenant="t", generation="g")
ONE, OTHER = "In what country is Normandy located?", "Normandy is located in which country?"
NEAR, FAR = np.float32([1, 0.01]), np.float32([0.9, 0.5])


def _answers(**settings: Any) -> tuple[Answers, Cache]:
    cache = Cache(CacheConfig(**settings), b"s", draw=lambda: 0.5)
    return Answers(cache, same_answer), cache


def _ask(answers: Answers, question: str, answer: str, vector_D: Array = NEAR, scope: Scope = SCOPE) -> Got:
    return answers.answer(
        scope, question, lambda: vector_D, lambda: Got({"answer": answer, "short": answer, "found": True}, "computed")
    )


def _trusted(cache: Cache) -> None:
    cache.trial = Trial(0.01, 0.1, lambda: 0.5, checked=400)


def test_a_question_of_the_same_words_gets_its_answer_and_no_vector_is_made() -> None:
    answers, _ = _answers()
    _ask(answers, ONE, "France")
    looked = answers.look(SCOPE, f" {ONE}\n", lambda: pytest.fail("a vector was made"))
    assert looked.got is not None and looked.got.value["answer"] == "France" and looked.got.source == "memory"


def test_a_question_in_other_words_gets_the_answer_with_the_question_that_it_was_of() -> None:
    answers, cache = _answers()
    _trusted(cache)
    _ask(answers, ONE, "France")
    got = _ask(answers, OTHER, "another")
    assert (got.value["answer"], got.source, got.question) == ("France", "alike", ONE) and got.cosine > 0.999
    assert cache.stats()["semantic_hit"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"question": "Normandy is not located in which country?"},
        {"vector_D": FAR},
        {"vector_D": np.float32([1, 0, 0])},
        {"vector_D": np.float32([0, 0])},
        {"scope": Scope(tenant="t", generation="g2")},
        {"scope": Scope(tenant="t2", generation="g")},
    ],
)
def test_either_gate_or_another_scope_is_enough_for_no_hit(change: dict[str, Any]) -> None:
    answers, cache = _answers()
    _trusted(cache)
    _ask(answers, ONE, "France")
    got = _ask(answers, **{"question": OTHER, "answer": "another", **change})
    assert not got.hit and got.value["answer"] == "another"


def test_semantic_hits_can_be_left_out() -> None:
    answers, cache = _answers(semantic=False)
    _trusted(cache)
    _ask(answers, ONE, "France")
    assert not _ask(answers, OTHER, "another").hit


def test_a_record_of_another_version_is_a_miss() -> None:
    answers, cache = _answers()
    _ask(answers, ONE, "France")
    key = Key(kind=Kind.alike, scope=SCOPE, text="in what country normandy located\nis")
    assert cache.get(key) is not None
    cache.put(key, {"asked": ONE})
    assert not _ask(answers, OTHER, "another").hit


def test_an_answer_that_is_not_for_others_is_not_kept() -> None:
    answers, cache = _answers()
    answers.answer(SCOPE, ONE, lambda: NEAR, lambda: Got({"answer": "half"}, "computed", keep=False))
    assert cache.stats()["memory_entries"] == 0 and not _ask(answers, ONE, "France").hit


def test_hits_are_answered_anew_until_enough_of_them_held(caplog: pytest.LogCaptureFixture) -> None:
    answers, cache = _answers()
    caplog.set_level(logging.INFO)
    for number in range(376):
        question = f"In what country is place {number} located?"
        _ask(answers, question, "France")
        assert not _ask(answers, f"Place {number} is located in what country?", "France").hit
    state = cache.trial.state
    assert state.serving and (state.checked, state.false) == (376, 0) and 0.0099 < state.bound <= 0.01
    assert "semantic cache: on (0 of 376 checked were false, at most 1.00% are; 1.00% are allowed)" in caplog.text
    _ask(answers, ONE, "France")
    assert _ask(answers, OTHER, "another").source == "alike"


def test_a_hit_that_did_not_hold_turns_them_off_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    answers, cache = _answers()
    cache.trial = Trial(0.01, 0.6, lambda: 0.5, checked=400)
    _ask(answers, ONE, "France")
    got = _ask(answers, OTHER, "Spain")  # drawn to be checked
    assert not got.hit and got.value["answer"] == "Spain"
    assert not cache.trial.state.serving and cache.stats()["semantic_false"] == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "semantic cache: off (1 of 401 checked were false" in record.message
    assert _ask(answers, OTHER, "?").value["answer"] == "Spain"  # by its own words


def test_answers_are_the_same_by_their_text_or_short_or_both_find_nothing() -> None:
    found = {"found": True, "answer": "It is France [1].", "short": "France"}
    assert same_answer(found, found | {"answer": "France [2]."})
    assert same_answer(found | {"short": ""}, found | {"short": ""})
    assert not same_answer(found | {"short": ""}, found | {"short": "", "answer": "Spain"})
    assert not same_answer(found, found | {"found": False})
    assert same_answer({"found": False, "answer": "No."}, {"found": False, "answer": "Nothing."})


def test_tasks_are_answered_alike() -> None:
    answers, cache = _answers()
    _trusted(cache)

    async def make() -> Got:
        while cache.stats()["joined"] < 2:
            await asyncio.sleep(0.001)
        return Got({"answer": "France", "short": "France"}, "computed")

    async def play() -> list[Got]:
        first = await asyncio.gather(*(answers.answer_async(SCOPE, ONE, lambda: NEAR, make) for _ in range(3)))
        return [*first, await answers.answer_async(SCOPE, OTHER, lambda: NEAR, make)]

    assert [got.source for got in asyncio.run(play())] == ["computed"] * 3 + ["alike"]
    assert cache.stats()["joined"] == 2


def test_the_bound_holds_however_often_it_is_looked_at() -> None:
    rng, truth, misses = np.random.default_rng(0), 0.02, 0
    for _ in range(200):
        false = np.cumsum(rng.random(1500) < truth)
        looks = range(20, 1500, 20)
        misses += any(upper_bound(int(false[n - 1]), n) < truth for n in looks)
    assert misses <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5
    assert upper_bound(0, 0) == 1.0 and upper_bound(5, 5) == 1.0
    assert upper_bound(3, 1000) > upper_bound(2, 1000) > upper_bound(2, 2000) > 0.001
