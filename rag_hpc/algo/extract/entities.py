"""Character references of HTML, for hostile input too."""

from __future__ import annotations

import html
import re
from html.entities import html5

_NAMED = re.compile(r"&([a-zA-Z][a-zA-Z0-9]*)(;?)(=?)")
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")  # no code point; Python fails on 4,300 digits


def unescape(text: str) -> str:
    """Return the text with its character references replaced; one of too many digits becomes U+FFFD."""
    if "&" not in text:
        return text
    return html.unescape(_LONG_REFERENCE.sub("\ufffd", text))


def unescape_attribute(text: str) -> str:
    """Return the value of an attribute with its character references replaced: there `&region=` is no `&reg`.

    Source: https://html.spec.whatwg.org/#named-character-reference-state.
    """
    return unescape(_NAMED.sub(_kept, text)) if "&" in text else text


def _kept(found: re.Match[str]) -> str:
    name, ended, equals = found.groups()
    is_reference = f"{name};" in html5 if ended else name in html5 and not equals
    return found[0] if is_reference else f"&amp;{found[0][1:]}"
