"""What a client asks, made one text of it: composed Unicode, no control characters, not too long."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from rag_hpc.algo.answer.prompt import Turn
from rag_hpc.serve.gateway.problems import Problem

MOST_CHARS = 16  # of a token, about: a turn with more of them is not even counted
# controls, and marks that turn the direction of text around; line ends and tabs are spaces
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


def remembered(turns: Sequence[Turn], most_tokens: int, num_tokens: Callable[[str], int]) -> list[Turn]:
    """Return the last turns of a chat that have no more tokens than that together; the oldest are dropped first, and
    what then stands at the front without its question."""
    kept: list[Turn] = []
    left = most_tokens
    for turn in reversed(turns):
        if len(turn.text) > left * MOST_CHARS:
            break
        lines = unicodedata.normalize("NFC", turn.text).strip().split("\n")
        text = "\n".join(_STEERS.sub(" ", line).rstrip() for line in lines)
        left -= num_tokens(text)
        if left < 0:
            break
        if text:
            kept.append(Turn(turn.role, text))
    while kept and kept[-1].role == "assistant":
        kept.pop()
    return kept[::-1]


def prepared(text: str, most: int, name: str = "question") -> str:
    """Return the text as it is searched for. Raises Problem for one that is blank or has more than `most` characters.

    name: of the field that it came in.
    """
    if len(text) > most:
        raise Problem(
            400,
            "context_length_exceeded",
            f"{name}: {len(text)} characters, at most {most} are taken; ask a shorter question",
        )
    plain = " ".join(_STEERS.sub(" ", unicodedata.normalize("NFC", text)).split())
    if not plain:
        raise Problem(400, "empty_question", f"{name}: it is blank; ask something")
    return plain
