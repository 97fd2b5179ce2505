"""Plain text for people: aligned tables, and numbers with their units."""

from __future__ import annotations

import datetime
import sys
import textwrap
from collections.abc import Iterator, Sequence

from rag_hpc.core.log import columns, shown

INDENT = "    "  # of a remark below its row


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1, width: int | None = None) -> str:
    """Return a table in columns two blanks apart, without blanks at the end of lines.

    On a terminal, or in a `width`, that is too narrow, columns go on below, the first `keys` of them repeated, and
    remarks, a last column without a name, go below their rows.
    """
    width = width or columns(sys.stdout)
    table = [[*map(shown, row)] for row in (header, *rows)]
    remarks = [row.pop() for row in table] if header[-1] == "" else [""] * len(table)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    blocks = [*_blocks(widths, keys, width)]
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        for row, remark in zip(table, remarks, strict=True):
            line = "  ".join(row[i].ljust(widths[i]) for i in block)
            lines += _remarked(line, remark if block is blocks[-1] else "", width)
    return "\n".join(lines)


def _blocks(widths: Sequence[int], keys: int, width: int | None) -> Iterator[list[int]]:
    """Yield the columns that fit beside each other, the keys first in each."""
    block: list[int] = []
    for column in range(len(widths)):
        if width and len(block) > keys and sum(widths[i] + 2 for i in block) + widths[column] > width:
            yield block
            block = [*range(keys)]
        block.append(column)
    yield block


def _remarked(line: str, remark: str, width: int | None) -> list[str]:
    whole = f"{line}  {remark}".rstrip()
    if width is None or len(whole) <= width:
        return [whole]
    return [line.rstrip(), *textwrap.wrap(remark, width, initial_indent=INDENT, subsequent_indent=INDENT)]


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
