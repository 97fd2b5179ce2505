"""Character references of HTML, for hostile input too."""

from __future__ import annotations

import html
import re

_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")  # no code point; Python fails on 4,300 digits


def unescape(text: str) -> str:
    """Return the text with its character references replaced; one of too many digits becomes U+FFFD."""
    if "&" not in text:
        return text
    return html.unescape(_LONG_REFERENCE.sub("\ufffd", text))
