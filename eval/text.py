"""Plain text for people: aligned tables, and numbers with their units."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from rag_hpc.core.log import shown


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in columns two blanks apart, without blanks at the end of lines."""
    table = [[*map(shown, row)] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


def duration(seconds: float | None) -> str:
    """Return seconds with a fitting unit; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds >= 9.95 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float | None) -> str:
    """Return a whole number with thin groups of three digits; a dash for None."""
    return "–" if number is None else f"{round(number):,}".replace(",", "\u202f")


def amount(num_bytes: float | None) -> str:
    """Return bytes in binary units; a dash for None."""
    if num_bytes is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def share(value: float | None, digits: int = 3) -> str:
    """Return a figure between 0 and 1 with fixed digits, rounded down so that a bar is never met by rounding."""
    if value is None:
        return "–"
    scale: int = 10**digits
    return f"{int(value * scale + 1e-6) / scale:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a percentage that is given in percent; a dash for None."""
    return "–" if value is None else f"{value:.0f} %"


def day(unix: float | None) -> str:
    """Return a time in UTC, to the minute; a dash for None."""
    if unix is None:
        return "–"
    return datetime.datetime.fromtimestamp(unix, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
