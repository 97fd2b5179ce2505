"""Edits: the text changes where they say, and headings that they leave alone stay where their words are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rag_hpc.algo.text.edits import Edit, Heading, apply_edits, move_headings


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, list[Edit], list[Heading]]:
    text = draw(st.text("ab\n", min_size=1, max_size=40))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=10)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    edits = [(start, end, draw(st.sampled_from(["", "<X>", "\n"]))) for start, end in pairs]
    spans = draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(1, 8)), max_size=5))
    return text, edits, [(start, 1, text[start : start + size]) for start, size in sorted(spans) if start < len(text)]


@given(edited())
@settings(deadline=None, max_examples=300)
def test_headings_keep_their_words(case: tuple[str, list[Edit], list[Heading]]) -> None:
    text, edits, headings = case
    after, moved = apply_edits(text, edits), move_headings(headings, edits)
    assert all(after[start : start + len(title)] == title for start, _, title in moved)
    untouched = [h for h in headings if all(end <= h[0] or start >= h[0] + len(h[2]) for start, end, _ in edits)]
    assert [title for _, _, title in moved] == [title for _, _, title in untouched]


def test_an_edit_that_touches_a_heading_from_outside_leaves_it() -> None:
    text = "mail: x\nTitle\nmore"
    edits = [(6, 8, "<EMAIL>\n"), (13, 14, "")]
    assert apply_edits(text, edits) == "mail: <EMAIL>\nTitlemore"
    assert move_headings([(8, 2, "Title")], edits) == [(14, 2, "Title")]
