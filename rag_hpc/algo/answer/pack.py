"""Which passages go into a prompt: none twice, and as many as its budget of tokens takes, the best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rag_hpc.algo.answer.prompt import Passage, passage_block
from rag_hpc.algo.text.words import word_ends

Count = Callable[[str], int]  # a text to its tokens
_BETWEEN = 2  # tokens of the empty line between two passages, at most


def pack(passages: Sequence[Passage], budget: int | None, count: Count) -> tuple[list[Passage], dict[str, int]]:
    """Return the passages to show, in the order given, and how many were `repeated`, `over_budget` and `cut`.

    budget: in tokens, with the marks around each passage; None is no limit. A passage that a better one holds word for
    word is repeated. One that no longer fits is left out, and shorter ones after it may fit; where even the first
    would not, it loses its end.
    """
    kept: list[Passage] = []
    texts: list[str] = []
    left = budget
    counts = {"repeated": 0, "over_budget": 0, "cut": 0}
    for passage in passages:
        text = " ".join(passage.text.casefold().split())
        if any(text in other for other in texts):
            counts["repeated"] += 1
            continue
        size = _size(passage, len(kept) + 1, count)
        if left is not None and size > left:
            if kept or (shorter := _shortened(passage, left, count)) is None:
                counts["over_budget"] += 1
                continue
            counts["cut"] += 1
            passage, size = shorter, _size(shorter, 1, count)
        kept.append(passage)
        texts.append(text)
        left = None if left is None else left - size
    return kept, counts


def _size(passage: Passage, number: int, count: Count) -> int:
    return count(passage_block(number, passage)) + _BETWEEN


def _shortened(passage: Passage, budget: int, count: Count) -> Passage | None:
    """Return the passage with as many of its words as fit, None where not one does."""
    ends = word_ends(passage.text)
    low, high = 0, len(ends)  # of ends[:low] every one fits, from `high` on none does
    while low < high:
        middle = (low + high) // 2
        if _size(replace(passage, text=passage.text[: ends[middle]]), 1, count) <= budget:
            low = middle + 1
        else:
            high = middle
    text = passage.text[: ends[low - 1]].rstrip() if low else ""
    return replace(passage, text=text) if text else None
