"""What the headers of an HTTP reply say."""

from __future__ import annotations

import datetime
import email.utils

HTML_TYPES = ("text/html", "application/xhtml+xml")


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
