"""The marks of MediaWiki's language converter: `-{zh-hans:计算机; zh-hant:電腦}-` is one word in two scripts.

Source: https://www.mediawiki.org/wiki/Writing_systems/Syntax
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Characters that only one of the two ways of writing Chinese has, and that hardly a page is without.
_SIMPLIFIED = frozenset("国们这来个时为说对会学发后与经产东无过现动开关长门见车马语实业电体点样应让还进种从")
_TRADITIONAL = frozenset("國們這來個時為說對會學發後與經產東無過現動開關長門見車馬語實業電體點樣應讓還進種從")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_LATIN = re.compile("[A-Za-z]")
_SCRIPTS = {
    "hans": ("zh-hans", "zh-cn", "zh-sg", "zh-my", "gan-hans", "zh"),
    "hant": ("zh-hant", "zh-tw", "zh-hk", "zh-mo", "gan-hant", "zh"),
    "cyrl": ("sr-ec", "sr-cyrl", "kk-cyrl", "kk-kz", "kk", "tg", "tg-cyrl", "uz-cyrl", "crh-cyrl"),
    "latn": ("sr-el", "sr-latn", "kk-latn", "kk-tr", "tg-latn", "uz-latn", "uz", "crh-latn", "ku-latn", "ku"),
}
_PAIR = re.compile(r"(?:[^;:]*?=>)?\s*([a-z]{2,3}(?:-[a-z]{2,4})?)\s*:(.*)", re.DOTALL)
_PARTS = re.compile(r";(?=\s*(?:[^;:=]*=>)?\s*[a-z]{2,3}(?:-[a-z]{2,4})?\s*:|\s*\Z)")
_MARK = re.compile(r"-\{[^{}]*\}-")
_LATIN_MARKUP = 2  # letters of the source, about, to one of Cyrillic text: names of templates and tags are Latin
_HIDDEN = frozenset("HT-")  # flags of rules that show nothing where they stand


class Variants:
    """Which of several ways of writing a page takes: its own, by most of its characters."""

    def __init__(self, source: str) -> None:
        self._order: tuple[str, ...] = ()
        if "-{" in source:
            scripts = [_SCRIPTS[name] for name in _scripts(source)]
            self._order = tuple(variant for script in scripts for variant in script)

    def chosen(self, texts: Sequence[str]) -> str:
        """Return what a mark shows; texts: its parts between bars, the flags first where it has any."""
        *flags, rules = texts if len(texts) == 1 else (texts[0], "|".join(texts[1:]))
        if _HIDDEN.intersection(flag.strip() for flag in "".join(flags).split(";")):
            return ""
        pairs: dict[str, str] = {}
        for part in _PARTS.split(rules):
            pair = _PAIR.fullmatch(part)
            if pair is None:
                if part.strip():
                    return rules.strip()  # no rules, but text that is not to be converted
            else:
                pairs.setdefault(pair[1], pair[2].strip())
        if not pairs:
            return rules.strip()
        return next((pairs[variant] for variant in self._order if variant in pairs), next(iter(pairs.values())))


def _scripts(source: str) -> list[str]:
    """Return the scripts of _SCRIPTS, the page's own first."""
    source = _MARK.sub("", source)
    hans, hant = (sum(char in own for char in source) for own in (_SIMPLIFIED, _TRADITIONAL))
    cyrillic, latin = len(_CYRILLIC.findall(source)), len(_LATIN.findall(source))
    chinese = ["hans", "hant"] if hans > hant else ["hant", "hans"]
    return [*chinese, *(["cyrl", "latn"] if _LATIN_MARKUP * cyrillic >= latin else ["latn", "cyrl"])]
