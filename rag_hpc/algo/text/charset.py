"""Which charset a page is in: what the transport says, else what the page says."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 4096  # browsers read 1024; some generators put a long comment first
_META = re.compile(rb"""<meta[^>]{1,512}?charset\s*=\s*+["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{1,200}?encoding\s*=\s*["']([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
_HEADER = re.compile(r"""charset\s*=\s*+["']?\s*([A-Za-z0-9_:.\-]{2,40})""", re.IGNORECASE)
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# What browsers read these labels as: https://encoding.spec.whatwg.org/#names-and-labels
_SUPERSETS = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "iso8859-9": "cp1254"}
_NOT_FOR_PAGES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7", "charmap"}


def known_charset(label: str | None) -> str | None:
    """Return Python's name of the charset that browsers read `label` as, or None if it is none."""
    if not label:
        return None
    try:
        info = codecs.lookup(label.strip())
    except (LookupError, ValueError):
        return None
    if not info._is_text_encoding or info.name in _NOT_FOR_PAGES:
        return None
    return _SUPERSETS.get(info.name, info.name)


def header_charset(content_type: str) -> str | None:
    """Return the charset parameter of a Content-Type value, if it names a known charset."""
    found = _HEADER.search(content_type)
    return known_charset(found[1]) if found else None


def meta_label(body: bytes) -> str | None:
    """Return the charset label in the first meta tag of a page that has one, as it is spelt."""
    found = _META.search(body, 0, HEAD_BYTES)
    return found[1].decode("ascii") if found else None


def declared_charset(body: bytes) -> str | None:
    """Return the charset that a page declares by byte order mark, XML declaration or meta tag, or None."""
    for bom, name in BOMS:
        if body.startswith(bom):
            return name
    found = _XML.search(body, 0, HEAD_BYTES)
    declared = known_charset(found[1].decode("ascii") if found else meta_label(body))
    # A meta tag that could be read as ASCII does not stand in UTF-16 text (HTML standard, prescan).
    return "utf-8" if declared and declared.startswith("utf-16") else declared
