"""Language detection and reasons to reject a document."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_DETECT_CHARS = 20_000  # the start of a text tells its language; keeps long pages cheap
_CUTOFF = 1200  # resiliparse's distance above which it says "unknown"
_NUM_CANDIDATES = 8
_MARGIN = 1.1  # a wanted language this close to the nearest one is believed
_WEAK = 0.55  # below this score a language is a guess, and in nearly pure ASCII (code, names) no ground to reject
_ASCII = 0.9


def language(text: str) -> tuple[str, float]:
    """Return the ISO 639-1 code of the likeliest language ("unknown" if none) and a score 0..1, larger is surer.

    The score is one minus the share of resiliparse's out-of-place distance; prose has 0.6 and more, code 0.4 to 0.5.
    """
    name, distance = _candidates(text)[0]
    return name, max(0.0, 1.0 - distance / _CUTOFF)


def reject_reason(
    text: str,
    *,
    min_chars: int = 50,
    max_chars: int = 5_000_000,
    languages: Sequence[str] = (),
    min_alpha: float = 0.3,
    max_repeated: float = 0.6,
) -> str | None:
    """Return why a document is of no use, or None. Tests run from cheap to dear; the first that fails names it.

    Slugs: too-short, too-long, low-alpha (letters / characters that are not spaces), repeated-lines
    (characters in lines seen before / all), language-xx (no languages given: all are welcome).
    Source of the repetition test: Rae et al. 2021 (Gopher), table A1; limits are loose since code repeats lines.
    """
    if len(text) < min_chars:
        return "too-short"
    if len(text) > max_chars:
        return "too-long"
    if alpha_share(text) < min_alpha:
        return "low-alpha"
    if repeated_share(text) > max_repeated:
        return "repeated-lines"
    return _wrong_language(text, languages)


def alpha_share(text: str) -> float:
    """Return letters (and the marks that belong to them) over all characters that are not spaces."""
    solid = "".join(text.split())
    if not solid:
        return 0.0
    letters = sum(map(str.isalpha, solid))
    if not solid.isascii():  # isalpha misses the vowel signs of Indic scripts
        letters += sum(ch > "\u02ff" and unicodedata.category(ch)[0] == "M" for ch in solid)
    return letters / len(solid)


def repeated_share(text: str) -> float:
    """Return the share of characters that stand in lines which occurred before (blank lines do not count)."""
    seen: set[str] = set()
    total = repeated = 0
    for line in text.split("\n"):
        bare = line.strip()
        total += len(bare)
        if bare in seen:
            repeated += len(bare)
        seen.add(bare)
    return repeated / total if total else 0.0


def _candidates(text: str) -> list[tuple[str, int]]:
    from resiliparse.parse.lang import detect_fast

    found = detect_fast(text[:_DETECT_CHARS], cutoff=_CUTOFF, n_results=_NUM_CANDIDATES)
    assert isinstance(found, list)  # a single tuple only for n_results=1
    return [(name, distance) for name, distance in found] or [("unknown", _CUTOFF)]


def _wrong_language(text: str, languages: Sequence[str]) -> str | None:
    if not languages:
        return None
    near = _candidates(text)
    name, least = near[0]
    if any(lang in languages and distance <= least * _MARGIN for lang, distance in near):
        return None
    sample = text[:_DETECT_CHARS]
    if 1.0 - least / _CUTOFF < _WEAK and len(sample.encode("ascii", "ignore")) >= _ASCII * len(sample):
        return None
    return f"language-{name}"
