"""Replacements in a text, and headings that keep their place through them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

Edit = tuple[int, int, str]  # start, end, what stands there instead
Heading = tuple[int, int, str]  # start in the text, level, title: text[start : start + len(title)] == title


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """Return the text after the edits, which are in order and do not overlap."""
    parts, at = [], 0
    for start, end, new in edits:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def move_headings(headings: Sequence[Heading], edits: Sequence[Edit]) -> list[Heading]:
    """Return the headings where they stand after the edits; one that an edit changed is left out."""
    ends = [end for _, end, _ in edits]
    shifts = [0, *accumulate(len(new) - (end - start) for start, end, new in edits)]
    moved = []
    for start, level, title in headings:
        before = bisect_right(ends, start)  # edits that end at or before the heading
        if before == len(edits) or edits[before][0] >= start + len(title):
            moved.append((start + shifts[before], level, title))
    return moved
