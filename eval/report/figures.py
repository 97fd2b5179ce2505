"""Pictures as matplotlib draws them: SVG whose colours follow the page's style sheet, or alone as SVG and PNG.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; lines differ in dash and marker too.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.errors import MissingDependency
from rag_hpc.eval.times import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, PAPER = "#1b1f24", "#5a636e", "#d9dee4", "#ffffff"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b4bcc5", "#d55e00", "#8a7b00", "#7f6fb0", "#8c564b")
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper"} | {c: f"c{n}" for n, c in enumerate(COLOURS)}
MARKERS = "os^DvP"
OF_PARTS = (5, 1, 0, 3)  # colours of queue, set-up, work and flush
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
SMOOTH = 65  # points of a curve
PER_ROW, PANEL = 3, (3.3, 2.7)  # panels a row; inches of one


@dataclass(frozen=True, kw_only=True)
class Panel:
    """S of one stage over p. bound: the most that S can be, and why; fitted: (p, S, low, high) of a law."""

    title: str
    points: Sequence[tuple[int, float, bool]]  # p, S, and whether it is judged
    fitted: Sequence[tuple[float, float, float, float]] = ()
    foretold_from: float = math.inf  # beyond that p the law was not measured
    bound: tuple[float, str] | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A row of a bar chart: stretches (begin, length, colour), seconds or money."""

    label: str
    parts: Sequence[tuple[float, float, int]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A mean with its interval, or a place in a plane."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    x: float = 0.0
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture and the rows that it was drawn from."""

    name: str
    figure: Any
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.figure.canvas.draw()
        self.figure.set_layout_engine("none")  # laid out once: at another resolution it would be a hair different

    def svg(self) -> bytes:
        """Return it as a file of its own; the same data give the same bytes."""
        import matplotlib

        out = io.BytesIO()
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        return re.sub(rb"font: ([\d.]+px) [^;\"]*", rb"font: \1 sans-serif", out.getvalue())

    def png(self) -> bytes:
        """Return it as pixels."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=160, facecolor=PAPER)
        return out.getvalue()

    def inline(self) -> str:
        """Return the element for a page, in the page's colours."""
        text = self.svg().decode("utf-8")
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every picture
        for colour, name in VARIABLES.items():
            text = text.replace(colour, f"var(--{name})")
        return text.replace("<svg", f'<svg class="drawn" role="img" aria-label="{self.name}"', 1)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the page's style, and leave that of other pictures alone. Raises MissingDependency without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependency("pictures: matplotlib is not installed; pip install 'rag-hpc[plots]'") from error
    with matplotlib.rc_context(STYLE):
        yield


def speed_up(panels: Sequence[Panel], *, efficiency: bool = False) -> Figure:
    """Return S, or E, over p: every measurement, the law with its band, S = p, and the bound."""
    figure, grid = _figure(len(panels))
    for axes, panel in zip(grid, panels, strict=False):
        _curve(axes, panel, efficiency)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def gantt(rows: Sequence[Bars], x_label: str) -> Figure:
    """Return stretches of time, a row each; the same for waterfalls."""
    figure, axes = _one(height=0.9 + 0.22 * max(3, len(rows)))
    for number, row in enumerate(rows):
        for begin, length, colour in row.parts:
            axes.barh(number, length, left=begin, height=0.7, color=COLOURS[colour], edgecolor=PAPER, linewidth=0.6)
        if row.note:
            end = max((begin + length for begin, length, _ in row.parts), default=0.0)
            axes.annotate(row.note, (end, number), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.0, y=0.02)
    axes.set_xlim(0, 1.12 * max((b + n for row in rows for b, n, _ in row.parts), default=1.0))
    axes.set_xlabel(x_label)
    axes.grid(axis="x", alpha=0.6)
    axes.set_axisbelow(True)
    return figure


def of_parts(names: Sequence[str] = PARTS) -> list[tuple[str, int]]:
    """Return what the colours of a waterfall stand for."""
    return list(zip(names, OF_PARTS, strict=True))


def legend(figure: Figure, names: Sequence[tuple[str, int]]) -> Figure:
    """Return the figure with a legend of colours above it."""
    from matplotlib.patches import Patch

    patches = [Patch(color=COLOURS[colour], label=name) for name, colour in names]
    figure.legend(handles=patches, loc="outside upper left", ncols=min(6, len(names)))
    return figure


def intervals(dots: Sequence[Dot], x_label: str) -> Figure:
    """Return means with their intervals, a row each; a group's share a colour."""
    figure, axes = _one(height=0.9 + 0.21 * max(3, len(dots)))
    groups = list(dict.fromkeys(dot.group for dot in dots))
    for number, dot in enumerate(dots):
        at = groups.index(dot.group)
        colour = COLOURS[at % 5]
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [number, number], color=colour, linewidth=1.6)
        axes.plot([dot.value], [number], MARKERS[at % len(MARKERS)], color=colour, markersize=5)
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.grid(axis="x", alpha=0.6)
    return figure


def frontier(dots: Sequence[Dot], x_label: str, y_label: str) -> Figure:
    """Return a plane of cost and gain: every run, and the line of those that none is better than at less."""
    figure, axes = _one(height=3.4)
    groups = list(dict.fromkeys(dot.group for dot in dots))
    for at, group in enumerate(groups):
        own = sorted((dot for dot in dots if dot.group == group), key=lambda dot: dot.x)
        colour = COLOURS[at % 5]
        for dot in own:
            if dot.low is not None and dot.high is not None:
                axes.plot([dot.x, dot.x], [dot.low, dot.high], color=colour, linewidth=1.0, alpha=0.6)
        xs, ys = [dot.x for dot in own], [dot.value for dot in own]
        axes.plot(xs, ys, MARKERS[at % len(MARKERS)], color=colour, markersize=5, label=group)
        for dot in own:
            axes.annotate(dot.label, (dot.x, dot.value), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
    best = best_of(dots)
    axes.step([d.x for d in best], [d.value for d in best], where="post", color=SOFT, linewidth=1.0, linestyle="--")
    if dots and min(dot.x for dot in dots) > 0 and max(d.x for d in dots) > 8 * min(d.x for d in dots):
        axes.set_xscale("log")
    axes.margins(0.12)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.5)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def best_of(dots: Sequence[Dot]) -> list[Dot]:
    """Return the dots that no other is better than at the same cost or less, cheapest first."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda one: (one.x, -one.value)):
        if not best or dot.value > best[-1].value:
            best.append(dot)
    return best


def _curve(axes: Axes, panel: Panel, efficiency: bool) -> None:
    ps = sorted({p for p, _, _ in panel.points})
    most = max([*ps, *(p for p, *_ in panel.fitted)])

    def shown(p: float, speed: float) -> float:
        return speed / p * ps[0] if efficiency else speed

    every = np.geomspace(ps[0], most, SMOOTH).tolist()  # a straight line is none where p is drawn by its logarithm
    axes.plot(every, [shown(p, p / ps[0]) for p in every], color=SOFT, linewidth=1, linestyle=":")
    for inside in (True, False):
        part = [row for row in panel.fitted if (row[0] <= panel.foretold_from) == inside]
        if not inside and part:
            part = [*[row for row in panel.fitted if row[0] <= panel.foretold_from][-1:], *part]
        xs = [row[0] for row in part]
        axes.plot(
            xs, [shown(p, s) for p, s, _, _ in part], color=COLOURS[0], linewidth=1.4, linestyle="-" if inside else "--"
        )
        low, high = ([shown(row[0], row[end]) for row in part] for end in (2, 3))
        axes.fill_between(xs, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    if panel.bound:
        value, why = panel.bound
        xs = [p for p in every if p <= ps[-1]]
        axes.plot(xs, [shown(p, value) for p in xs], color=COLOURS[6], linewidth=1.2, linestyle="-.")
        axes.annotate(why, (ps[-1], shown(ps[-1], value)), xytext=(0, 4), textcoords="offset points", ha="right",
                      fontsize=7, color=COLOURS[6])  # fmt: skip
    for judged, face in ((True, COLOURS[0]), (False, PAPER)):
        own = [(p, shown(p, s)) for p, s, is_judged in panel.points if is_judged is judged]
        axes.plot([x for x, _ in own], [y for _, y in own], "o", color=COLOURS[0], markerfacecolor=face, markersize=4.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ps, [str(p) for p in ps])
    axes.minorticks_off()
    top = max([shown(p, s) for p, s, _ in panel.points] + [1.0])
    axes.set_ylim(0, 1.25 * max(top, shown(ps[-1], panel.bound[0]) if panel.bound and not efficiency else top))
    axes.set_title(panel.title, loc="left")
    axes.set(xlabel="p", ylabel="E = S / p" if efficiency else "S")
    axes.grid(alpha=0.5)
    if panel.note:
        axes.text(0.02, 0.03, panel.note, transform=axes.transAxes, fontsize=7, color=SOFT)


def _figure(num_panels: int) -> tuple[Figure, list[Axes]]:
    across = min(PER_ROW, max(1, num_panels))
    down = max(1, -(-num_panels // across))
    figure = _empty(PANEL[0] * across, PANEL[1] * down)
    return figure, list(figure.subplots(down, across, squeeze=False).flat)


def _one(height: float) -> tuple[Figure, Axes]:
    figure = _empty(PANEL[0] * 2.2, min(height, 9.0))
    return figure, figure.subplots()


def _empty(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Made

    figure = Made(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    return figure
