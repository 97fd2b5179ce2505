"""Quality filters of Gopher (Rae et al. 2021, appendix A.1.1 and table A1), each on its own; those of C4 are in c4.py.

The paper says neither what a word nor what a bullet or an ellipsis is: these are as in datatrove. Words are spaCy's
English ones (words.py), since the filters' limits were set for languages with spaces; in scripts without, a character
is a word (text/words.py), and their mean length says nothing. Each filter has the name that a dropped document gets as
its reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from rag_hpc.algo.text.words import CLUSTER, is_unspaced
from rag_hpc.errors import ConfigError

if TYPE_CHECKING:
    from rag_hpc.algo.types import I32, U8, U64

_LINES, _PARAGRAPHS = re.compile(r"\n+"), re.compile(r"\n{2,}")
_BULLETS, _ELLIPSES = ("•", "-"), ("...", "…")
_TOP_NGRAMS, _LONG_NGRAMS = (2, 3, 4), (5, 6, 7, 8, 9, 10)
_EDGES = "§=%—–+…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_JOINTS = "-–—~"
_MAX_CODE = 0x110000
_INF = float("inf")


@dataclass(kw_only=True)
class QualityLimits:
    """Where the quality filters draw the line: the papers' figures. Fractions of the text unless said otherwise."""

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0  # mean, characters
    max_word_length: float = 10.0
    max_symbols: float = 0.1  # hash signs, and ellipses, per word
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8  # words with a letter, of all words
    min_stop_words: int = 2  # different ones
    stop_words: list[str] = field(default_factory=lambda: ["the", "be", "to", "of", "and", "that", "have", "with"])
    max_duplicate_lines: float = 0.3  # of the lines
    max_duplicate_paragraphs: float = 0.3  # of the paragraphs
    max_duplicate_line_chars: float = 0.2
    max_duplicate_paragraph_chars: float = 0.2
    max_top_ngrams: list[float] = field(default_factory=lambda: [0.20, 0.18, 0.16])  # of 2, 3, 4 words
    max_duplicate_ngrams: list[float] = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10])  # 5 to 10
    c4_max_word_chars: int = 1000
    c4_min_line_words: int = 5
    c4_min_sentences: int = 3

    def __post_init__(self) -> None:
        for name, needed in (("max_top_ngrams", _TOP_NGRAMS), ("max_duplicate_ngrams", _LONG_NGRAMS)):
            if len(getattr(self, name)) != len(needed):
                raise ConfigError(
                    f"stage.clean.quality_limits.{name} needs {len(needed)} figures, for n-grams of "
                    f"{', '.join(map(str, needed))} words; use 1 to switch one off"
                )


class Measured:
    """What Gopher's filters measure on a text; each measurement is made when it is first asked for."""

    def __init__(self, text: str, limits: QualityLimits) -> None:
        self.text, self.limits = text, limits

    @cached_property
    def lines(self) -> list[str]:
        """All lines, blank ones too."""
        return self.text.split("\n")

    @cached_property
    def spaced(self) -> str:
        """The text with spaces between all of its words."""
        return CLUSTER.sub(r" \g<0> ", self.text) if is_unspaced(self.text) else self.text

    @cached_property
    def words(self) -> tuple[U64, I32, tuple[int, int, int, int]]:
        """Hashes and lengths of the words, and (words, not only symbols, characters in these, with a letter)."""
        import numpy as np

        from rag_hpc.algo.quality.words import find_words

        codes = np.frombuffer(self.spaced.encode("utf-32-le", "surrogatepass"), np.uint32)
        hashes, lengths = np.empty(len(codes), np.uint64), np.empty(len(codes), np.int32)
        counts = find_words(codes, _classes(), hashes, lengths)
        return hashes[: counts[0]], lengths[: counts[0]], counts

    @cached_property
    def ngrams(self) -> list[float]:
        """Shares of characters in the commonest 2- to 4-gram, and in 5- to 10-grams that occurred before."""
        import numpy as np

        from rag_hpc.algo.quality.words import repeated_ngrams

        found = np.zeros(len(_TOP_NGRAMS) + len(_LONG_NGRAMS), np.int32)
        hashes, lengths, _ = self.words
        repeated_ngrams(hashes, lengths, np.array(_TOP_NGRAMS, np.int32), np.array(_LONG_NGRAMS, np.int32), found)
        return [float(chars) / max(1, len(self.spaced)) for chars in found]

    def duplicates(self, splitter: re.Pattern[str]) -> tuple[float, float]:
        """Return the shares of parts that occurred before, and of the characters in them."""
        parts = splitter.split(self.text.strip("\n"))
        unique = set(parts)
        chars = sum(map(len, parts)) - sum(map(len, unique))
        return (len(parts) - len(unique)) / len(parts), chars / max(1, len(self.text))

    @cached_property
    def duplicate_lines(self) -> tuple[float, float]:
        """Shares of lines that occurred before, and of characters in them."""
        return self.duplicates(_LINES)

    @cached_property
    def duplicate_paragraphs(self) -> tuple[float, float]:
        """Shares of paragraphs that occurred before, and of characters in them."""
        return self.duplicates(_PARAGRAPHS)

    def per_word(self, count: int) -> float:
        """Return a count over the number of words."""
        return count / max(1, self.words[2][0])

    @property
    def word_length(self) -> float:
        """Mean length of the words that are not only symbols; the least allowed where most are a character each."""
        if 2 * len(CLUSTER.findall(self.spaced if self.spaced is not self.text else "")) > self.words[2][1]:
            return self.limits.min_word_length
        return self.words[2][2] / max(1, self.words[2][1])

    @property
    def symbols(self) -> float:
        """Hash signs or ellipses per word, whichever is more."""
        return self.per_word(max(self.text.count("#"), sum(map(self.text.count, _ELLIPSES))))

    @property
    def bullet_lines(self) -> float:
        """Share of lines that begin with a bullet."""
        return sum(line.lstrip().startswith(_BULLETS) for line in self.lines) / len(self.lines)

    @property
    def ellipsis_lines(self) -> float:
        """Share of lines that end with an ellipsis."""
        return sum(line.rstrip().endswith(_ELLIPSES) for line in self.lines) / len(self.lines)

    @property
    def stop_words(self) -> int:
        """How many different stop words the text has."""
        return len(_hashes(tuple(self.limits.stop_words)).intersection(self.words[0].tolist()))


Check = Callable[[Measured, QualityLimits], tuple[float, float, float]]  # measured, least, most


def _top(place: int) -> Check:
    return lambda m, limits: (m.ngrams[place], 0, limits.max_top_ngrams[place])


def _long(place: int) -> Check:
    return lambda m, limits: (m.ngrams[len(_TOP_NGRAMS) + place], 0, limits.max_duplicate_ngrams[place])


GOPHER_QUALITY: dict[str, Check] = {
    "gopher-word-count": lambda m, limits: (m.words[2][1], limits.min_words, limits.max_words),
    "gopher-word-length": lambda m, limits: (m.word_length, limits.min_word_length, limits.max_word_length),
    "gopher-symbols": lambda m, limits: (m.symbols, 0, limits.max_symbols),
    "gopher-bullet-lines": lambda m, limits: (m.bullet_lines, 0, limits.max_bullet_lines),
    "gopher-ellipsis-lines": lambda m, limits: (m.ellipsis_lines, 0, limits.max_ellipsis_lines),
    "gopher-alphabetic-words": lambda m, limits: (m.per_word(m.words[2][3]), limits.min_alphabetic_words, _INF),
    "gopher-stop-words": lambda m, limits: (m.stop_words, limits.min_stop_words, _INF),
}
GOPHER_REPETITION: dict[str, Check] = {
    "gopher-duplicate-paragraphs": lambda m, limits: (m.duplicate_paragraphs[0], 0, limits.max_duplicate_paragraphs),
    "gopher-duplicate-paragraph-chars": lambda m, limits: (
        m.duplicate_paragraphs[1],
        0,
        limits.max_duplicate_paragraph_chars,
    ),
    "gopher-duplicate-lines": lambda m, limits: (m.duplicate_lines[0], 0, limits.max_duplicate_lines),
    "gopher-duplicate-line-chars": lambda m, limits: (m.duplicate_lines[1], 0, limits.max_duplicate_line_chars),
    **{f"gopher-top-{n}-gram": _top(place) for place, n in enumerate(_TOP_NGRAMS)},
    **{f"gopher-duplicate-{n}-grams": _long(place) for place, n in enumerate(_LONG_NGRAMS)},
}
_GOPHER = GOPHER_QUALITY | GOPHER_REPETITION


def gopher_reason(text: str, filters: Sequence[str], limits: QualityLimits) -> tuple[str, str] | None:
    """Return (name of the first of the filters that fails, what was measured and the limit), or None."""
    measured = Measured(text, limits)
    for name in filters:
        if name in _GOPHER:
            value, least, most = _GOPHER[name](measured, limits)
            if not least <= value <= most:
                return name, f"{value:.4g}, {f'at least {least:g}' if value < least else f'at most {most:g}'} allowed"
    return None


@lru_cache(maxsize=1)
def _classes() -> U8:
    """Return the class bits of every code point."""
    import numpy as np

    from rag_hpc.algo.quality import words as k

    classes, edges, quotes, joints = np.zeros(_MAX_CODE, np.uint8), set(_EDGES + _QUOTES), set(_QUOTES), set(_JOINTS)
    for code, char in enumerate(map(chr, range(_MAX_CODE))):
        category = unicodedata.category(char)
        bits = k.LETTER * char.isalpha() | k.DIGIT * char.isdigit() | k.SPACE * char.isspace()
        bits |= k.UPPER * (category == "Lu") | k.SYMBOL * (category[0] in "PSCZ")
        bits |= k.EDGE * (category in ("Sc", "So") or char in edges)
        classes[code] = bits | k.QUOTE * (char in quotes) | k.JOINT * (char in joints)
    return classes


@lru_cache(maxsize=8)
def _hashes(words: tuple[str, ...]) -> frozenset[int]:
    return frozenset(found for word in words for found in Measured(word, QualityLimits()).words[0].tolist())
