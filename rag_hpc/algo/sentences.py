"""Sentence spans by rules: no model, no state, the same on every machine."""

from __future__ import annotations

import re

_CLOSERS = "\"'”’»)\\]」』）"
_BREAK = re.compile(  # the look-behind keeps long rows of dots linear
    rf"(?P<line>\n\s*)"
    rf"|(?P<stop>(?<![.!?…؟।])[.!?…؟।]+[{_CLOSERS}]*)(?P<gap>[ \t\u00a0]+)"
    rf"|(?P<wide>[。！？｡]+[{_CLOSERS}]*)"
)
_LAST_WORD = re.compile(r"[^\W\d_](?:[\w.]*)\Z")
_ABBREVIATION = re.compile(
    r"e\.g|i\.e|cf|vs|viz|al|approx|resp|ca|figs?|eqs?|sec|no|vol|ed|mrs?|ms|dr|prof|st|jr|sr|inc|ltd|co", re.IGNORECASE
)
_MIN_WRAPPED = 40  # characters; shorter lines that end without a stop are code, table cells, addresses
_SOFT_ENDS = re.compile(r"[^\W_]|[,\-–—)\]\"'’`]")  # how a line ends that goes on in the next one


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) of the sentences in order: trimmed, not overlapping, covering all that is not space.

    A blank line always ends a sentence. A single line break ends one too (lists, headings, code), unless the text is
    plainly wrapped there: the line is long, ends in a word or comma, and the next one starts in lower case at the
    same indent. A full stop ends one before a space, unless a lower-case letter follows or the word before is an
    initial or a common abbreviation. CJK stops need no space.
    """
    spans: list[tuple[int, int]] = []
    begin = line_begin = 0
    for match in _BREAK.finditer(text):
        cut = match.end()
        if match["line"] is not None:
            is_soft = _is_wrapped(text, line_begin, match)
            line_begin = text.rfind("\n", match.start(), cut) + 1
            if is_soft:
                continue
        elif match["stop"] is not None and not _ends_sentence(text, match):
            continue
        _append(spans, text, begin, cut)
        begin = cut
    _append(spans, text, begin, len(text))
    return spans


def _is_wrapped(text: str, line_begin: int, match: re.Match[str]) -> bool:
    """Return whether the line break is a wrap inside a sentence."""
    after, space = match.end(), match["line"]
    if space.count("\n") > 1 or after >= len(text) or not text[after].islower():
        return False
    line = text[line_begin : match.start()].rstrip()
    if len(line) < _MIN_WRAPPED or not _SOFT_ENDS.match(line[-1]):
        return False
    return len(space) - space.rfind("\n") - 1 == len(line) - len(line.lstrip())


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    after = match.end()
    if after < len(text) and text[after].islower():
        return False
    if match["stop"] != ".":
        return True
    word = _LAST_WORD.search(text, max(0, match.start() - 12), match.start())
    if word is None:
        return not _is_list_number(text, match.start())
    return len(word[0]) > 1 and _ABBREVIATION.fullmatch(word[0]) is None


def _is_list_number(text: str, stop: int) -> bool:
    """Return whether the digits before the stop stand alone at the start of a line, as in `12. Install`."""
    head = text[text.rfind("\n", max(0, stop - 8), stop) + 1 : stop] if stop > 8 else text[:stop].split("\n")[-1]
    return len(head) <= 7 and head.strip().isdigit()


def _append(spans: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    piece = text[begin:end]
    bare = piece.strip()
    if bare:
        start = begin + len(piece) - len(piece.lstrip())
        spans.append((start, start + len(bare)))
