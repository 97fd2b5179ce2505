"""Sentence spans by rules: no model, no state, the same on every machine. C characters of a text, S sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rag_hpc.algo.jit import jit
from rag_hpc.algo.text.chartable import CharTable, characters
from rag_hpc.algo.types import I32, I64, U32

_SPACE, _NEWLINE, _BLANK, _STOP, _WIDE, _CLOSER, _LOWER, _SOFT, _THAI, _POINT, _DIGIT, _WORD, _LETTER, _FOREIGN = (
    1 << bit for bit in range(14)
)
_SETS = {
    _NEWLINE: "\n",
    _BLANK: " \t\u00a0",
    _STOP: ".!?…؟।॥۔։።፧᙮᠃᠉꓿",
    _WIDE: "。！？｡．︒‼⁇⁈⁉។៕။།༎",
    _POINT: "．",
    _CLOSER: "\"'”’»)]」』）",
}
_SOFT_MARKS = ",-–—)]\"'’`"  # with letters and digits: how a line ends that goes on in the next one
_THAI_LETTER = re.compile("[\u0e01-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf]")
_ALPHABETIC = re.compile(r"[^\W\d_]")
_LAST_WORD = re.compile(rf"{_ALPHABETIC.pattern}(?:[\w.]*)\Z")
_LOOK_BACK = 12  # characters before a full stop in which its word is looked for
_ABBREVIATIONS = (
    "e.g i.e cf vs viz al approx resp ca fig figs eq eqs sec no vol ed mr mrs ms dr prof st jr sr inc ltd co".split()
)
_LONGEST = max(map(len, _ABBREVIATIONS))
_ABBREVIATION = re.compile(
    "|".join([*map(re.escape, _ABBREVIATIONS), r"[ก-ฮ](?:\.[ก-ฮ])+", r"[ກ-ຮ](?:\.[ກ-ຮ])+"]), re.IGNORECASE
)
_IN_ABBREVIATIONS = re.compile(f"[{''.join(sorted({*''.join(_ABBREVIATIONS)}))}ก-ฮກ-ຮ]", re.IGNORECASE)
_MIN_THAI = 20  # characters of a sentence of Thai or Lao, which end before a space: shorter ones are parts of one
_MIN_WRAPPED = 40  # characters; shorter lines that end without a stop are code, table cells, addresses
_SURE = -1


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Where sentences start and end, ascending, and the line breaks before each (since the end of the one before)."""

    starts_S: I64
    ends_S: I64
    newlines_S: I64


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) of the sentences in order: trimmed, not overlapping, covering all that is not space.

    A blank line always ends a sentence. A single line break ends one too (lists, headings, code), unless the text is
    plainly wrapped there: the line is long, ends in a word or comma, and the next one starts in lower case at the
    same indent. A full stop ends one before a space, unless a lower-case letter follows or the word before is an
    initial or a common abbreviation. Stops of Chinese, Japanese, Khmer, Burmese and Tibetan need no space. Thai and Lao
    have none: there a space between two letters ends a sentence that is long enough.
    """
    sentences = find_sentences(text)
    return list(zip(sentences.starts_S.tolist(), sentences.ends_S.tolist(), strict=True))


def find_sentences(text: str) -> Sentences:
    """Return the sentences of `sentence_spans` as arrays."""
    chars_C = characters(text)
    flags = _TABLE.codes(chars_C)
    cuts, stops, kinds = _find_cuts(chars_C, flags)
    for at in np.flatnonzero(stops != _SURE):
        if not _ends_sentence(text, int(stops[at])):
            cuts[at] = _SURE
    cuts = cuts[cuts != _SURE]
    if kinds & _THAI:
        cuts = _with_thai(chars_C, flags, cuts)
    starts_S, ends_S, newlines_S = _trim(chars_C, flags, cuts)
    return Sentences(starts_S=starts_S, ends_S=ends_S, newlines_S=newlines_S)


def _flags(char: str) -> int:
    found = sum(bit for bit, members in _SETS.items() if char in members)
    found |= _SPACE if char.isspace() else 0
    found |= _LOWER if char.islower() else 0
    found |= _THAI if _THAI_LETTER.match(char) else 0
    found |= _DIGIT if char.isdigit() else 0
    found |= _LETTER if _ALPHABETIC.match(char) else 0
    if char == "." or re.match(r"\w", char):
        found |= _WORD | (0 if _IN_ABBREVIATIONS.match(char) else _FOREIGN)
    return found | (_SOFT if char.isalnum() or char in _SOFT_MARKS else 0)


_TABLE = CharTable(_flags)


@jit
def _with_thai(chars: U32, flags: I32, cuts: I64) -> I64:
    """Return the cuts, and those behind spaces between letters of Thai or Lao that end a sentence long enough."""
    merged = np.empty(len(cuts) + len(chars) // _MIN_THAI + 1, dtype=np.int64)
    num = done = last = 0  # cuts that are in `merged`, those of them that were given, the place of the last
    at = 1
    while at < len(chars):
        if not (flags[chars[at]] & _BLANK and flags[chars[at - 1]] & _THAI):
            at += 1
            continue
        begin, at = at, _run(chars, flags, at, _BLANK)
        if at == len(chars) or not flags[chars[at]] & _THAI:
            continue
        while done < len(cuts) and cuts[done] <= begin:
            last = merged[num] = cuts[done]
            num, done = num + 1, done + 1
        if begin - last >= _MIN_THAI:
            last = merged[num] = at
            num += 1
    rest = len(cuts) - done
    merged[num : num + rest] = cuts[done:]
    return merged[: num + rest].copy()


@jit
def _find_cuts(chars: U32, flags: I32) -> tuple[I64, I64, int]:
    """Return (cuts, stops, kinds): where sentences may end, the space behind them included, the place of a lone full
    stop that a look at the word before has to confirm (_SURE: nothing to confirm), and all flags of the text."""
    most = kinds = 0
    for char in chars:
        kinds |= flags[char]
        most += (flags[char] & (_NEWLINE | _STOP | _WIDE)) != 0
    cuts, stops = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    num, at, line_begin = 0, 0, 0
    while at < len(chars):
        kind = flags[chars[at]]
        end, stop = at + 1, _SURE
        is_cut = False
        if kind & _NEWLINE:
            end = _run(chars, flags, at, _SPACE)
            is_cut = not _is_wrapped(chars, flags, (line_begin, at, end))
            line_begin = end
            while chars[line_begin - 1] != 10:
                line_begin -= 1
        elif kind & _STOP:
            closed = _run(chars, flags, _run(chars, flags, at, _STOP), _CLOSER)
            lone = closed == at + 1 and chars[at] == 46
            stop = at if lone and not _is_long_word(chars, flags, at) else _SURE
            end = _run(chars, flags, closed, _BLANK)
            is_cut = end > closed and not (end < len(chars) and flags[chars[end]] & _LOWER)
        elif kind & _WIDE:
            end = _run(chars, flags, _run(chars, flags, at, _WIDE), _CLOSER)
            is_cut = not (kind & _POINT and end < len(chars) and flags[chars[end]] & _DIGIT)
        at = end
        if is_cut:
            cuts[num], stops[num] = end, stop
            num += 1
    return cuts[:num].copy(), stops[:num].copy(), kinds


@jit
def _run(chars: U32, flags: I32, at: int, kind: int) -> int:
    """Return where the run of characters of this kind ends that begins at a place."""
    while at < len(chars) and flags[chars[at]] & kind:
        at += 1
    return at


@jit
def _is_long_word(chars: U32, flags: I32, stop: int) -> bool:
    """Return whether the word before a full stop is plainly no abbreviation: by its length, or by one of its letters.

    The others are for `_ends_sentence`, which takes fifty times as long.
    """
    begin, kinds, found = stop, 0, 0  # found: what the word's letters are
    for at in range(stop - 1, max(0, stop - _LOOK_BACK) - 1, -1):
        if not flags[chars[at]] & _WORD:
            break
        kinds |= flags[chars[at]]
        if flags[chars[at]] & _LETTER:
            begin, found = at, kinds
    return stop - begin > 1 and (found & _FOREIGN != 0 or (stop - begin > _LONGEST and not found & _THAI))


@jit
def _is_wrapped(chars: U32, flags: I32, places: tuple[int, int, int]) -> bool:
    """Return whether the white space [at, after) behind the line is a wrap inside a sentence."""
    line_begin, at, after = places
    if after >= len(chars) or not flags[chars[after]] & _LOWER:
        return False
    indent = after - at - 1  # of the next line, when this is the only line break
    for place in range(at + 1, after):
        if chars[place] == 10:
            return False
    line_end = at
    while line_end > line_begin and flags[chars[line_end - 1]] & _SPACE:
        line_end -= 1
    if line_end - line_begin < _MIN_WRAPPED or not flags[chars[line_end - 1]] & _SOFT:
        return False
    return _run(chars, flags, line_begin, _SPACE) - line_begin == indent


@jit
def _trim(chars: U32, flags: I32, cuts: I64) -> tuple[I64, I64, I64]:
    """Return (starts_S, ends_S, newlines_S) of the pieces between cuts that are not only space."""
    starts, ends = np.empty(len(cuts) + 1, dtype=np.int64), np.empty(len(cuts) + 1, dtype=np.int64)
    newlines = np.zeros(len(cuts) + 1, dtype=np.int64)
    num, begin = 0, 0
    for at in range(len(cuts) + 1):
        cut = cuts[at] if at < len(cuts) else len(chars)
        while begin < cut and flags[chars[begin]] & _SPACE:
            newlines[num] += chars[begin] == 10
            begin += 1
        end = cut
        while end > begin and flags[chars[end - 1]] & _SPACE:
            end -= 1
        if begin < end:
            starts[num], ends[num] = begin, end
            num += 1
            if num < len(newlines):
                for place in range(end, cut):
                    newlines[num] += chars[place] == 10
        begin = cut
    return starts[:num].copy(), ends[:num].copy(), newlines[:num].copy()


def _ends_sentence(text: str, stop: int) -> bool:
    """Return whether the full stop at a place ends a sentence, by the word before it."""
    word = _LAST_WORD.search(text, max(0, stop - _LOOK_BACK), stop)
    if word is None:
        return not _is_list_number(text, stop)
    return len(word[0]) > 1 and _ABBREVIATION.fullmatch(word[0]) is None


def _is_list_number(text: str, stop: int) -> bool:
    """Return whether the digits before the stop stand alone at the start of a line, as in `12. Install`."""
    begin = text.rfind("\n", max(0, stop - 8), stop) + 1
    return stop - begin <= 7 and text[begin:stop].strip().isdigit()
