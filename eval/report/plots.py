"""Plots as inline SVG text: colours come from the page's style sheet, so that they follow light and dark.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; lines differ in dash and marker too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2 5 2")
MARKER = 3.6


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The drawing area of a plot inside its picture, in pixels."""

    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def inner_width(self) -> float:
        """Width between the axes' ends."""
        return self.width - self.left - self.right

    @property
    def inner_height(self) -> float:
        """Height between the axes' ends."""
        return self.height - self.top - self.bottom


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], series: Sequence[tuple[str, int]], x_label: str) -> str:
    """Return horizontal bars: one a row, its sum written at its end, its parts as `series` (name, colour) says."""
    step, frame = 26.0, Frame(width=760, height=26.0 * len(rows) + 78, left=92, top=30, right=66, bottom=48)
    largest = max((sum(parts) for _, parts in rows), default=0.0)
    ticks = nice_ticks(0.0, largest or 1.0)
    scale = frame.inner_width / ticks[-1]
    body = [_x_grid(frame, [(frame.left + t * scale, f"{t:g}") for t in ticks], x_label)]
    for number, (label, parts) in enumerate(rows):
        body.append(_bar(frame.left, frame.top + number * step + 5, scale, label, series, parts))
    body.append(_legend_boxes(series, frame.left))
    return _svg(frame, f"{x_label} by stage", body)


def line_chart(curves: Mapping[str, Points], *, x_label: str, y_label: str, y_range: tuple[float, float]) -> str:
    """Return lines with markers over a logarithmic x axis, ticks at the points' own x, legend on the right."""
    frame = Frame(width=520, height=300, left=58, top=14, right=52 + 7.2 * max(map(len, curves)), bottom=48)
    xs = sorted({x for points in curves.values() for x, _ in points})
    low, high = math.log(xs[0]), math.log(xs[-1])
    ticks = nice_ticks(*y_range)
    bottom, top = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - low) / (high - low) if high > low else 0.5
        return frame.left + across * frame.inner_width, frame.top + (
            1 - (y - bottom) / (top - bottom)
        ) * frame.inner_height

    body = [
        _x_grid(frame, [(at(x, bottom)[0], f"{x:g}") for x in xs], x_label),
        _y_grid(frame, [(at(xs[0], t)[1], f"{t:g}") for t in ticks], y_label),
    ]
    for number, (name, points) in enumerate(curves.items()):
        body.append(_line(number, name, [(*at(x, y), x, y) for x, y in points]))
        body.append(_legend_line(number, name, frame))
    return _svg(frame, f"{y_label} over {x_label}", body)


def nice_ticks(low: float, high: float, num: int = 5) -> list[float]:
    """Return about `num` round, evenly spaced numbers that enclose [low, high]."""
    span = (high - low) or 1.0
    raw = span / num
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _svg(frame: Frame, title: str, body: Sequence[str]) -> str:
    size = f'viewBox="0 0 {frame.width:g} {frame.height:g}" width="{frame.width:g}" height="{frame.height:g}"'
    css = "plot wide" if frame.width > 600 else "plot"
    return f'<svg class="{css}" {size} role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _x_grid(frame: Frame, ticks: Sequence[tuple[float, str]], label: str) -> str:
    bottom = frame.height - frame.bottom
    lines = [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:.1f}" y2="{bottom:.1f}"/>' for x, _ in ticks]
    texts = [_text(x, bottom + 16, text, "middle") for x, text in ticks]
    return "".join(
        [*lines, *texts, _text(frame.left + frame.inner_width / 2, frame.height - 8, label, "middle", ' class="axis"')]
    )


def _y_grid(frame: Frame, ticks: Sequence[tuple[float, str]], label: str) -> str:
    right, middle = frame.width - frame.right, frame.top + frame.inner_height / 2
    lines = [f'<line class="grid" x1="{frame.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' for y, _ in ticks]
    texts = [_text(frame.left - 8, y + 4, text, "end") for y, text in ticks]
    turned = f' class="axis" transform="rotate(-90 14 {middle:.1f})"'
    return "".join([*lines, *texts, _text(14, middle, label, "middle", turned)])


def _bar(
    left: float, y: float, scale: float, label: str, series: Sequence[tuple[str, int]], parts: Sequence[float]
) -> str:
    drawn, x = [_text(left - 8, y + 13, label, "end")], left
    for (name, number), value in zip(series, parts, strict=True):
        title = f"<title>{escape(label)}: {escape(name)} {value:.3g} s</title>"
        drawn.append(
            f'<rect class="fill{number}" x="{x:.2f}" y="{y:.1f}" width="{value * scale:.2f}" height="17">{title}</rect>'
        )
        x += value * scale
    total = sum(parts)
    return "".join([*drawn, _text(x + 6, y + 13, f"{total:.3g} s" if total < 1000 else f"{total:.0f} s")])


def _legend_boxes(series: Sequence[tuple[str, int]], left: float) -> str:
    drawn: list[str] = []
    x = left
    for name, number in series:
        drawn += [f'<rect class="fill{number}" x="{x:.1f}" y="6" width="12" height="12"/>', _text(x + 17, 16, name)]
        x += 34 + 7.0 * len(name)
    return "".join(drawn)


def _line(number: int, name: str, points: Sequence[tuple[float, float, float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dash = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if DASHES[number % len(DASHES)] else ""
    marks = [
        f"<g><title>{escape(name)}: {value:.4f} at {k:g}</title>{_marker(number, x, y)}</g>"
        for x, y, k, value in points
    ]
    return f'<polyline class="line{number}" points="{path}"{dash}/>{"".join(marks)}'


def _marker(number: int, x: float, y: float) -> str:
    r = MARKER
    if number % 3 == 0:
        return f'<circle class="fill{number}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    if number % 3 == 1:
        return f'<rect class="fill{number}" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>'
    top, base = y - r * 1.2, y + r
    left, right = x - r * 1.1, x + r * 1.1
    points = f"{x:.1f},{top:.1f} {left:.1f},{base:.1f} {right:.1f},{base:.1f}"
    return f'<polygon class="fill{number}" points="{points}"/>'


def _legend_line(number: int, name: str, frame: Frame) -> str:
    x, y = frame.width - frame.right + 14, frame.top + 10 + 20 * number
    dash = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if DASHES[number % len(DASHES)] else ""
    line = f'<polyline class="line{number}" points="{x:.1f},{y:.1f} {x + 22:.1f},{y:.1f}"{dash}/>'
    return line + _marker(number, x + 11, y) + _text(x + 29, y + 4, name)
