from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.chunk.structure import (
    BLOCK_GAP,
    BLOCK_LINE,
    DEEPEST,
    HEADING,
    LINE,
    PARAGRAPH,
    SENTENCE,
    Heading,
    Outline,
    find_breaks,
    given_headings,
)
from rag_hpc.algo.extract.decode import markdown_headings
from rag_hpc.algo.text.sentences import sentence_spans

PAGE = """# Guide

Intro text. More of it.

## Set up

- first item
- second item

```sh
# no heading

run it
```

    x = 1

    y = 2

| a | b |
|---|---|
| 1 | 2 |

## Use ##
Text."""


def headings_of(text: str) -> list[Heading]:
    """Return the headings as the clean stage hands them on."""
    return given_headings([list(heading) for heading in markdown_headings(text)], text)


def ranks(text: str) -> dict[str, int]:
    """Return the rank of the break before each piece that the text is cut into at all places."""
    breaks = find_breaks(text, headings_of(text))
    best: dict[int, int] = {}
    for place, rank in zip(breaks.places_B.tolist(), breaks.ranks_B.tolist(), strict=True):
        best[place] = max(rank, best.get(place, 0))
    places = sorted(best)
    return {text[a:b].strip(): best[a] for a, b in zip(places, [*places[1:], len(text)], strict=True)}


def test_headings_rank_above_paragraphs_lines_and_sentences() -> None:
    found = ranks(PAGE)
    assert found["# Guide"] == HEADING + DEEPEST - 1 > found["## Set up"] == found["## Use ##"] == HEADING + DEEPEST - 2
    assert found["More of it."] == SENTENCE
    assert found["- second item"] == LINE
    assert found["```sh"] == PARAGRAPH


def test_nothing_parts_a_heading_from_its_text() -> None:
    found = ranks(PAGE)
    assert found["Intro text."] == found["- first item"] == found["Text."] == 0


def test_code_and_tables_are_cut_last() -> None:
    found = ranks(PAGE)
    assert found["# no heading"] == BLOCK_LINE and found["run it"] == BLOCK_GAP
    assert found["x = 1"] == PARAGRAPH and found["y = 2"] == BLOCK_GAP
    assert found["| a | b |"] == PARAGRAPH and found["| 1 | 2 |"] == BLOCK_LINE < SENTENCE


def test_headings_start_where_their_line_does() -> None:
    text = "  ## Set up\n\nUse\n===\n\nA [link] here"
    found = given_headings([[5, 2, "Set up"], [text.index("Use"), 1, "Use"], [text.index("link"), 3, "link"]], text)
    assert [text[h.start :].split("\n")[0] for h in found] == ["## Set up", "Use", "link] here"]


@pytest.mark.parametrize(
    "values",
    [None, "x", {"a": 1}, [[1, 2]], [["0", 1, "t"]], [[-1, 1, "t"]], [[9, 1, "t"]], [[0, 1, None]], [[True, 1, "t"]]],
)
def test_headings_that_are_none_are_left_out(values: object) -> None:
    assert given_headings(values, "text") == []


def test_given_headings_are_ordered() -> None:
    assert given_headings([[3, 2, "b"], [0, 1, "a"]], "text") == [Heading(0, 1, "a"), Heading(3, 2, "b")]


def test_outline_names_title_and_open_sections() -> None:
    outline = Outline(
        "The Guide",
        [Heading(0, 1, "Guide"), Heading(10, 2, "Set\n up"), Heading(20, 3, "Linux"), Heading(30, 2, "Use")],
    )
    assert outline.path(5) == ("The Guide",)  # its topmost heading is in the title
    assert outline.path(15) == ("The Guide", "Set up")
    assert outline.path(20) == ("The Guide", "Set up")  # a heading is in its passage, not above it
    assert outline.path(25) == ("The Guide", "Set up", "Linux")
    assert outline.path(35) == ("The Guide", "Use")
    assert Outline("", []).path(0) == ()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab. \n\t`~|#-é字"), max_size=120))
def test_every_sentence_begins_at_a_break(text: str) -> None:
    headings = headings_of(text)
    breaks = find_breaks(text, headings)
    assert set(breaks.places_B.tolist()) == {start for start, _ in sentence_spans(text)} | {h.start for h in headings}
    assert breaks.ranks_B.min(initial=0) >= 0 and breaks.ranks_B.max(initial=0) < HEADING + DEEPEST
