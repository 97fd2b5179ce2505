"""What a client asks, made one text of it: composed Unicode, no control characters, not too long."""

from __future__ import annotations

import re
import unicodedata

from rag_hpc.serve.gateway.problems import Problem

# controls, and marks that turn the direction of text around; line ends and tabs are spaces
_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


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
