"""What a word is, in every language: the one place that says so.

Where words are parted by spaces, a word is a run of letters, digits and underscores. Chinese, Japanese, Thai, Lao,
Khmer and Burmese part none: there a character, with the marks that stand on it, is a word (as Lucene has it for Han; in
Thai a word would else be a whole sentence). Digits are those of a number in any script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

from rag_hpc.algo.text.stopwords import STOP_WORDS, UNSPACED_STOP_WORDS

# Letters of scripts that part no words, as the inside of a class of `re`. Han with its signs of repetition, kana,
# bopomofo, Yi, Tangut, Khitan, Nushu; then what line breaking calls complex (UAX 14, class SA), most of it with marks.
IDEOGRAPHS = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uf900-\ufad9\uff66-\uff9f"
    "\U00016fe0-\U00016fe1\U00016fe3\U00017000-\U00018d08\U0001aff0-\U0001b2fb\U00020000-\U0003fffd"
)
COMPLEX = (
    "\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2-\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf\u1000-\u102a"
    "\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065-\u1066\u106e-\u1070\u1075-\u1081\u108e\u1780-\u17b3\u17d7\u17dc"
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a54\u1aa7\ua9e0-\ua9e4\ua9e6-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a"
    "\uaa7e-\uaaaf\uaab1\uaab5-\uaab6\uaab9-\uaabd\uaac0\uaac2\uaadb-\uaadd\U00011700-\U0001171a\U00011740-\U00011746"
)
MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\u1a55-\u1a7f\u3099-\u309a"
    "\ua9e5\uaa7b-\uaa7d\uaab0\uaab2-\uaab4\uaab7-\uaab8\uaabe-\uaabf\uaac1\U0001171d-\U0001172b"
)
LETTERS = IDEOGRAPHS + COMPLEX
_ONE = rf"[{LETTERS}{MARKS}][{MARKS}]*"
CLUSTER = re.compile(_ONE)
WORD = re.compile(rf"{_ONE}|[^\W{LETTERS}]+")
RUN = re.compile(rf"[{LETTERS}{MARKS}]+")
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_HIRAGANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30fc]+")
_STOPS = re.compile("|".join(sorted(map(re.escape, UNSPACED_STOP_WORDS), key=len, reverse=True)))
_PER_WORD = 2  # characters of Han, about, that say what an English word says


def words(text: str) -> list[str]:
    """Return the words in order, as they are written."""
    return WORD.findall(text)


def is_unspaced(text: str) -> bool:
    """Return whether the text has letters of a script that parts no words."""
    return not text.isascii() and CLUSTER.search(text) is not None


def num_words(text: str) -> int:
    """Return how many words the text has between spaces, and where there are none, how many it would about have."""
    if not is_unspaced(text):
        return len(text.split())
    clusters = len(CLUSTER.findall(text))
    return len(WORD.findall(CLUSTER.sub(" ", text))) + -(-clusters // _PER_WORD)


def word_ends(text: str) -> list[int]:
    """Return where the text may end so that no word is cut: before its white space, and behind each character that is a
    word; any place where it has neither."""
    ends = {at for at, char in enumerate(text) if char.isspace()}
    ends.update(found.end() for found in CLUSTER.finditer(text) if found.end() < len(text))
    return sorted(ends) or list(range(len(text)))


def columns(text: str) -> int:
    """Return the text's length where characters of Chinese and Japanese count twice, as they are twice as wide."""
    return len(text) + (0 if text.isascii() else len(_IDEOGRAPH.findall(text)))


def content_words(text: str) -> list[str]:
    """Return what carries meaning, in lower case and order: words, without those that any sentence has; of unspaced
    scripts each two characters in a row, of Han and katakana each one too, of Thai and the like each three.

    One letter of an alphabet, or one hiragana, says nothing of what a text is about. Wide and narrow forms of a letter
    are the same (NFKC).
    """
    lower = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    if not is_unspaced(lower):
        return [word for word in WORD.findall(lower) if word not in STOP_WORDS]
    spaced = [word for word in WORD.findall(RUN.sub(" ", lower)) if word not in STOP_WORDS]
    return spaced + [gram for run in RUN.findall(lower) for gram in run_grams(run)]


def run_grams(run: str, *, alone: bool = True) -> Iterator[str]:
    """Yield what carries meaning in a run of letters of unspaced scripts, as `content_words` has it.

    alone: single characters of Han and katakana too, where they have neighbours.
    """
    for piece in _STOPS.sub(" ", run).split():
        for ideographs, part in groupby(CLUSTER.findall(piece), lambda one: _IDEOGRAPH.match(one) is not None):
            ones = list(part)
            size = min(2 if ideographs else 3, len(ones))
            if alone and ideographs and size > 1:
                yield from (one for one in ones if not _HIRAGANA.fullmatch(one))
            yield from ("".join(ones[at : at + size]) for at in range(len(ones) - size + 1))
