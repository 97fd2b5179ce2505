"""What goes into a prompt: nothing twice, never more than its budget, the best first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rag_hpc.algo.answer.pack import pack
from rag_hpc.algo.answer.prompt import Passage, passage_block


def passage(text: str, chunk_id: str = "c") -> Passage:
    return Passage(chunk_id=chunk_id, doc_id="d", title="t", text=text)


def count(text: str) -> int:
    return len(text.split())


def room(*passages: Passage) -> int:
    return sum(count(passage_block(n, one)) + 2 for n, one in enumerate(passages, 1))


LONG, SHORT = passage("one two three four five six seven eight nine ten", "a"), passage("eleven twelve", "b")


def test_all_that_fits_stays_in_order() -> None:
    assert pack([LONG, SHORT], None, count) == ([LONG, SHORT], {"repeated": 0, "over_budget": 0, "cut": 0})
    assert pack([LONG, SHORT], room(LONG, SHORT), count)[0] == [LONG, SHORT]


def test_what_a_better_one_holds_is_repeated() -> None:
    again = [passage("ONE  two\nthree", "x"), passage(LONG.text, "y"), SHORT]
    assert pack([LONG, *again], None, count) == ([LONG, SHORT], {"repeated": 2, "over_budget": 0, "cut": 0})


def test_one_without_room_is_left_out_and_a_shorter_one_after_it_fits() -> None:
    tight = room(LONG, SHORT)
    other = passage("a b c d e f g", "z")
    assert pack([LONG, other, SHORT], tight, count) == ([LONG, SHORT], {"repeated": 0, "over_budget": 1, "cut": 0})


def test_the_best_loses_its_end_where_it_would_not_fit_alone() -> None:
    kept, counts = pack([LONG, SHORT], room(LONG) - 3, count)
    assert [one.text for one in kept] == ["one two three four five six seven"] and kept[0].chunk_id == "a"
    assert counts == {"repeated": 0, "over_budget": 1, "cut": 1}
    assert pack([LONG], 3, count) == ([], {"repeated": 0, "over_budget": 1, "cut": 0})
    wide = pack([passage("鱼" * 100)], 40, len)[0]
    assert wide == [] or wide[0].text == "鱼" * len(wide[0].text)


@given(st.lists(st.text(alphabet="ab \n</passage>", max_size=30), max_size=6), st.integers(0, 120))
def test_the_budget_holds_and_every_passage_is_accounted_for(texts: list[str], budget: int) -> None:
    passages = [passage(text, str(n)) for n, text in enumerate(texts)]
    kept, counts = pack(passages, budget, len)
    assert sum(len(passage_block(n, one)) + 2 for n, one in enumerate(kept, 1)) <= budget
    assert len(kept) + counts["repeated"] + counts["over_budget"] == len(passages)
    assert [one.chunk_id for one in kept] == sorted(one.chunk_id for one in kept)
