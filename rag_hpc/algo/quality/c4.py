"""Quality filters of C4 (Raffel et al. 2020, section 2.2): lines and citation marks that go, and pages that go.

Rules, limits and order are those of the authors' code (tensorflow/datasets, tensorflow_datasets/text/c4_utils.py); the
paper names 3 sentences and 5 words, an earlier text of it and datatrove 5 and 3. As in that code, the tests for a page
see only the lines that no earlier filter took. Sentences are our own (sentences.py), not Punkt's. Left out: the list of
bad words, and lines that other pages have too (see dedup). Each filter has a name; those of pages are the reasons of
dropped documents.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rag_hpc.algo.quality.gopher import QualityLimits
from rag_hpc.algo.text.edits import Edit
from rag_hpc.algo.text.words import CLUSTER, is_unspaced, num_words

C4 = (
    "c4-long-words",
    "c4-citations",
    "c4-terminal-punctuation",
    "c4-short-lines",
    "c4-lorem-ipsum",
    "c4-javascript",
    "c4-curly-bracket",
    "c4-policy",
    "c4-sentences",
)
_LINE = re.compile(r"[^\n]+")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_ENDS = (".", "?", "!", '"')
_WIDE_ENDS = (*_ENDS, *"。！？｡．”」』）។៕။")  # of lines in scripts without spaces
_NO_STOPS = re.compile("[\u0e01-\u0e4e\u0e81-\u0edf]\\Z")  # Thai and Lao write none
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_STAYS, _GOES = "", "line"


def c4_edits(text: str, filters: Collection[str], limits: QualityLimits) -> tuple[list[Edit], tuple[str, str] | None]:
    """Return (what to take out of the text, None), or ([], (name, detail)) of the filter that the page fails.

    A paragraph's end before, between or after lines that go remains one.
    """
    from rag_hpc.algo.text.sentences import sentence_spans

    on = frozenset(filters).intersection(C4)
    edits: list[Edit] = []
    num_sentences, end = 0, 0  # of the lines that stay, so far
    for match in _LINE.finditer(text) if on else ():
        verdict = _verdict(match[0].strip(), on, limits)
        if verdict == _STAYS:
            edits += _gap(text, end, match.start()) + _citations(match, on)
            end = match.end()
            if num_sentences < limits.c4_min_sentences:
                num_sentences += len(sentence_spans(match[0]))
        elif verdict != _GOES:
            return [], (verdict, f"in {match[0].strip()[:80]!r}")
    if "c4-sentences" in on and num_sentences < limits.c4_min_sentences:
        return [], ("c4-sentences", f"{num_sentences}, at least {limits.c4_min_sentences} allowed")
    return edits + ([(end, len(text), "")] if on and end < len(text) else []), None


def _verdict(line: str, on: frozenset[str], limits: QualityLimits) -> str:
    """Return whether the line stays or goes, or the name of the filter that the page fails by it."""
    if "c4-long-words" in on and any(len(word) > limits.c4_max_word_chars for word in _between_spaces(line)):
        return _GOES
    shown = _CITATION.sub("", line) if "c4-citations" in on else line
    if "c4-terminal-punctuation" in on and (not _is_ended(shown) or shown.endswith("...")):
        return _GOES
    if "c4-short-lines" in on and num_words(shown) < limits.c4_min_line_words:
        return _GOES
    lower = shown.lower()
    if "c4-lorem-ipsum" in on and "lorem ipsum" in lower:
        return "c4-lorem-ipsum"
    if "c4-javascript" in on and "javascript" in lower:
        return _GOES
    if "c4-curly-bracket" in on and "{" in shown:
        return "c4-curly-bracket"
    return _GOES if "c4-policy" in on and any(policy in lower for policy in _POLICIES) else _STAYS


def _between_spaces(line: str) -> list[str]:
    return (CLUSTER.sub(" ", line) if is_unspaced(line) else line).split()


def _is_ended(line: str) -> bool:
    if not is_unspaced(line):
        return line.endswith(_ENDS)
    return line.endswith(_WIDE_ENDS) or _NO_STOPS.search(line) is not None


def _gap(text: str, start: int, end: int) -> list[Edit]:
    """Return the edit that takes out the lines between two that stay (none stays before the first)."""
    gap = text[start:end]
    if not gap.strip():
        return []
    new = "" if start == 0 else "\n\n" if "\n\n" in gap else "\n"
    return [(start, end, new)]


def _citations(match: re.Match[str], on: frozenset[str]) -> list[Edit]:
    if "c4-citations" not in on:
        return []
    return [(match.start() + mark.start(), match.start() + mark.end(), "") for mark in _CITATION.finditer(match[0])]
