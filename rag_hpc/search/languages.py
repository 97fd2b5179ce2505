"""Which analyser takes a text apart under `stage.lexical.analyzer=auto`: that of its language, English for others.

A passage's is that of most of its text. A question's is one of those that the index has, so that an index in one
language is asked in that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rag_hpc.algo.quality.language import language, likely
from rag_hpc.core.manifest import Manifest
from rag_hpc.search.jvm import Analyzer

ENGLISH = Analyzer.en.value
_COUNTED = "language."  # how many passages of a shard, or documents, were taken apart by each
_KNOWN = {one.value for one in Analyzer} - {Analyzer.auto.value}
_SAME = {"yue": "zh", "wuu": "zh", "nn": "no"}
_KANA = re.compile("[\u3041-\u30ff]")
# an analyser of another language finds no word in two letters of these, or not the same ones
_SCRIPTS = {
    re.compile("[\u3041-\u30ff]{2}"): {"ja"},
    re.compile("[\u3400-\u4dbf\u4e00-\u9fff]{2}"): {"zh", "ja"},
    re.compile("[\uac00-\ud7a3]{2}"): {"ko"},
    re.compile("[\u0e01-\u0e4e]{2}"): {"th"},
    re.compile("[\u0e81-\u0ecd]{2}"): {"lo"},
    re.compile("[\u1000-\u104f]{2}"): {"my"},
    re.compile("[\u1780-\u17d3]{2}"): {"km"},
}


def of_passage(text: str, spoken: str) -> str:
    """Return the analyser of a text in a document that is mostly in the language `spoken`."""
    own = _named(spoken)
    if own == ENGLISH and text.isascii():
        return own
    found = language(text)
    if found.code == "ja" and not _KANA.search(text):
        return "zh"  # a line of Chinese is often taken for Japanese, which never goes without
    return _named(found.code) if found.is_sure else own


def of_question(text: str, indexed: Sequence[str]) -> str:
    """Return the analyser of a question, one of those that the index has: the commonest in doubt."""
    if len(indexed) == 1:
        return indexed[0]
    open_to = set(indexed)
    for script, languages in _SCRIPTS.items():
        if languages & open_to and script.search(text):
            open_to &= languages
            break
    scores: dict[str, float] = dict.fromkeys(indexed, 0.0)
    for code, score in likely(text).items():
        name = _named(code)
        scores[name] = max(scores.get(name, 0.0), score)
    return max((name for name in indexed if name in open_to), key=scores.__getitem__)


def counts(languages: Counter[str]) -> dict[str, float]:
    """Return a shard's figures of its languages."""
    return {f"{_COUNTED}{name}": float(languages[name]) for name in sorted(languages)}


def indexed(lexical: Manifest) -> list[str]:
    """Return the analysers that an index was made with, the commonest first."""
    given = lexical.config.get("analyzer", ENGLISH)  # runs of before have no other
    if given != Analyzer.auto.value:
        return [given]
    found = {name.removeprefix(_COUNTED): num for name, num in lexical.extra().items() if name.startswith(_COUNTED)}
    return sorted(found, key=lambda name: (-found[name], name)) or [ENGLISH]


def _named(code: str) -> str:
    code = _SAME.get(code, code)
    return code if code in _KNOWN else ENGLISH
