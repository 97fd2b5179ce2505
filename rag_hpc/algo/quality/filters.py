"""Reasons to drop any text (length, letters, repetition), and the choice of further filters by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rag_hpc.algo.quality.c4 import C4
from rag_hpc.algo.quality.gopher import GOPHER_QUALITY, GOPHER_REPETITION
from rag_hpc.algo.text.words import columns
from rag_hpc.errors import ConfigError

ALL_FILTERS = (*GOPHER_QUALITY, *GOPHER_REPETITION, *C4)  # in the order in which they run
FILTER_SETS = {
    "gopher": (*GOPHER_QUALITY, *GOPHER_REPETITION),
    "gopher-quality": tuple(GOPHER_QUALITY),
    "gopher-repetition": tuple(GOPHER_REPETITION),
    "c4": C4,
}
LIMITS: dict[str, float] = {"min_chars": 50, "max_chars": 2_000_000, "min_letters": 0.3, "max_repeated": 0.6}
NO_LIMITS: dict[str, float] = {"min_chars": 0, "max_chars": 1_000_000_000, "min_letters": 0.0, "max_repeated": 1.0}
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_SPACES = bytes(code for code in range(128) if chr(code).isspace())


def chosen_filters(names: Sequence[str]) -> list[str]:
    """Return the filters that the names of filters and sets stand for, in the order in which they run.

    A name with a minus sign takes away again what stands before it. Raises ConfigError for an unknown one.
    """
    chosen: set[str] = set()
    for name in names:
        bare = name.removeprefix("-")
        if bare not in FILTER_SETS and bare not in ALL_FILTERS:
            raise ConfigError(
                f"stage.clean.quality: no filter {bare!r}; sets: {', '.join(FILTER_SETS)}; "
                f"filters: {', '.join(ALL_FILTERS)}"
            )
        meant = set(FILTER_SETS.get(bare, (bare,)))
        chosen = chosen - meant if name.startswith("-") else chosen | meant
    return [name for name in ALL_FILTERS if name in chosen]


def reject_reason(
    text: str,
    *,
    min_chars: float = LIMITS["min_chars"],
    max_chars: float = LIMITS["max_chars"],
    min_letters: float = LIMITS["min_letters"],
    max_repeated: float = LIMITS["max_repeated"],
) -> tuple[str, str] | None:
    """Return (why a document is of no use, what was measured), or None. Tests run from cheap to dear.

    Slugs: too-short, too-long, low-alpha (letters / characters that are not spaces), repeated-lines
    (characters in lines seen before / all). A character of Chinese or Japanese, which says what several letters do,
    counts as two of min_chars. gopher.py has stricter limits on repetition.
    """
    if len(text) < min_chars and (size := columns(text)) < min_chars:
        return "too-short", f"{size} characters, at least {min_chars} allowed"
    if len(text) > max_chars:
        return "too-long", f"{len(text)} characters, at most {max_chars} allowed"
    alpha = alpha_share(text)
    if alpha < min_letters:
        return "low-alpha", f"{alpha:.4g}, at least {min_letters:g} allowed"
    repeated = repeated_share(text)
    if repeated > max_repeated:
        return "repeated-lines", f"{repeated:.4g}, at most {max_repeated:g} allowed"
    return None


def alpha_share(text: str) -> float:
    """Return letters (and the marks that belong to them) over all characters that are not spaces."""
    raw = text.encode("ascii", "ignore")
    letters, solid = len(raw.translate(None, _NO_LETTERS)), len(raw.translate(None, _SPACES))
    if len(raw) < len(text):
        import numpy as np

        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds, counts = np.unique(codes[codes > 127], return_counts=True)
        for char, count in zip(map(chr, kinds.tolist()), counts.tolist(), strict=True):
            solid += count * (not char.isspace())
            letters += count * (unicodedata.category(char)[0] in "LM")  # M: the vowel signs of Indic scripts
    return letters / solid if solid else 0.0


def repeated_share(text: str) -> float:
    """Return the share of characters that stand in lines which occurred before (blank lines do not count)."""
    lines = [line.strip() for line in text.split("\n")]
    total = sum(map(len, lines))
    return (total - sum(map(len, set(lines)))) / total if total else 0.0
