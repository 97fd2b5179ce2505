"""Text that a page keeps elsewhere than in the markup that browsers with scripts show: in noscript, in JSON-LD."""

from __future__ import annotations

import json
import re

from rag_hpc.algo.extract.entities import unescape

MIN_CHARS = 200  # of such a text
TIMES_VISIBLE = 2  # such a text has to say that many times as much as what is visible
_NOSCRIPT = re.compile(rb"</?noscript\b[^<>]*>", re.IGNORECASE)
_MARKUP = re.compile(rb"<[^<>]*+>|\s++")
_ARTICLE_BODY = re.compile(rb'"articleBody"\s*+:\s*+"((?:[^"\\]|\\.)++)"', re.DOTALL)
_TAG = re.compile(r"</?(?:p|div|br|h[1-6]|li|ul|ol|blockquote)\b[^<>]*+>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-zA-Z][^<>]*+>")


def noscript_chars(source: bytes, least: int) -> int:
    """Return about how many characters of text the longest noscript element holds, of those of over `least` bytes."""
    lower, num_chars, at = source.lower(), 0, 0
    while (begin := lower.find(b"<noscript", at)) >= 0:
        at = lower.find(b"</noscript", begin)
        if at < 0:
            break
        if at - begin > least:
            num_chars = max(num_chars, len(_MARKUP.sub(b"", source[begin:at])))
    return num_chars


def noscript_shown(source: bytes) -> bytes:
    """Return the page as a browser without scripts has it."""
    return _NOSCRIPT.sub(b"", source)


def article_body(source: bytes, begin: int, end: int) -> str:
    """Return the longest articleBody in source[begin:end], JSON-LD that may be broken, as plain text; "" without one.

    Source: https://schema.org/articleBody.
    """
    if source.find(b'"articleBody"', begin, end) < 0:
        return ""
    longest = max((found[1] for found in _ARTICLE_BODY.finditer(source, begin, end)), key=len, default=b"")
    try:
        text = str(json.loads(b'"' + longest + b'"', strict=False))
    except ValueError:  # an escape that is none
        text = longest.decode("utf-8", "replace")
    text = unescape(_without_tags(text)).strip()
    return unescape(_without_tags(text)).strip() if _TAG.match(text) else text  # some escape it twice


def _without_tags(text: str) -> str:
    return _ANY_TAG.sub("", _TAG.sub("\n\n", text)) if "<" in text else text
