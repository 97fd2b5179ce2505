"""One line of a benchmark's result, and how a list of them is printed."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Row:
    """A measured figure of ours, of its peers, and the bar it is held against.

    `ratio` is ours over the best peer (or over the bound, or simply the figure that the bar is about); with an
    `interval` its lower end must reach the bar (its upper end must stay below, when less is better).
    """

    name: str
    ours: float
    unit: str
    peers: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    interval: tuple[float, float] | None = None  # 95 percent
    bar: float | None = None  # None: shown, not judged
    less_is_better: bool = False  # the judged figure must not exceed the bar
    contention: float | None = None  # CPU pressure, percent of 10 s, the largest seen
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Return whether the bar is reached, None when there is none."""
        if self.bar is None:
            return None
        value = self.ours if self.ratio is None else self.ratio
        low, high = self.interval or (value, value)
        return high <= self.bar if self.less_is_better else low >= self.bar

    def plain(self) -> dict[str, object]:
        """Return the row for JSON."""
        return dataclasses.asdict(self) | {"met": self.met}


def cpu_class() -> str:
    """Return the processor that a figure was made on: its maker, and how wide its vectors are."""
    cpus = Path("/proc/cpuinfo")
    told = cpus.read_text(encoding="ascii", errors="replace") if cpus.exists() else ""
    makers = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    widths = {" avx512f ": ", AVX-512", " avx2 ": ", AVX2"}
    maker = next((name for key, name in makers.items() if key in told), platform.machine())
    return maker + next((width for flag, width in widths.items() if flag in told), "")


def as_json(rows: Sequence[Row]) -> str:
    """Return the rows as a JSON list."""
    return json.dumps([row.plain() for row in rows], indent=1, sort_keys=True)


def as_text(rows: Sequence[Row]) -> str:
    """Return the rows as lines for people."""
    return "\n".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    parts = [f"{row.name}: {row.ours:,.4g} {row.unit}"]
    if row.peers:
        parts.append("against " + ", ".join(f"{name} {value:,.4g}" for name, value in row.peers.items()))
    if row.ratio is not None:
        between = f" [{row.interval[0]:.3g}, {row.interval[1]:.3g}]" if row.interval else ""
        parts.append(f"ratio {row.ratio:.3g}{between}")
    if row.bar is not None:
        parts.append(f"bar {'<=' if row.less_is_better else '>='} {row.bar:g}: {'met' if row.met else 'MISSED'}")
    if row.note:
        parts.append(row.note)
    return "; ".join(parts)
