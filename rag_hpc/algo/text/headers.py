"""What the headers of an HTTP reply say."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Iterable

HTML_TYPES = ("text/html", "application/xhtml+xml")


SNIFFED_TYPES = (  # say nothing of the body, or are no types
    *("", "application/octet-stream", "unknown/unknown", "application/unknown", "application/x-unknown"),
    *("application/force-download", "httpd/unix-directory", "application/html", "text/x-server-parsed-html"),
)
_VALUE = re.compile(r"""(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++""")  # of a list, which commas in quotes do not end
_TYPE = re.compile(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+", re.ASCII)
_CHARSET = re.compile(r""";\s*charset\s*=\s*("[^"]*"|[^\s;]+)""", re.IGNORECASE)
_MARKUP_NAMES = b"!doctype html|html|head|body|title|meta|script|style|iframe|h1|div|font|table|a|br|p|b|!--"
_MARKUP = re.compile(rb"\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:" + _MARKUP_NAMES + rb")(?:[\s>]|(?<=--))", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"
SNIFF_BYTES = 1445  # of a body: https://mimesniff.spec.whatwg.org/#reading-the-resource-header


def sent_type(values: Iterable[str]) -> str:
    """Return the last valid type of all Content-Type values, with the charset that holds for it; "" if there is none.

    Source: "extract a MIME type" of the Fetch standard.
    """
    essence = charset = ""
    for value in _VALUE.findall(",".join(values)):
        kind = media_type(value).strip("'")
        if not _TYPE.fullmatch(kind) or kind == "*/*":
            continue
        stated = _CHARSET.search(value)
        charset = stated[1].strip('"') if stated else charset if kind == essence else ""
        essence = kind
    return f"{essence}; charset={charset}" if charset else essence


def is_markup(start: bytes) -> bool:
    """Return whether a body begins as HTML does, by the MIME sniffing standard's table; an XML declaration may precede.

    start: SNIFF_BYTES of the body are enough.
    """
    return _MARKUP.match(start.removeprefix(_BOM)[:SNIFF_BYTES]) is not None


def media_type(content_type: str) -> str:
    """Return the bare media type of a Content-Type value in lower case."""
    return content_type.partition(";")[0].strip().lower()


def retry_after_s(value: str, now_unix: float) -> float | None:
    """Return the seconds that a Retry-After value asks for, a number or a date (RFC 9110, 10.2.3), None if neither."""
    if value.isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, when.timestamp() - now_unix)
