"""The frontier: recall against questions a second, a curve for each kind of index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rag_hpc.errors import MissingDependency
from rag_hpc.eval.scaling import COLOURS

LEAST = 0.8  # recall that is shown


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (recall, rate) that no other beats in both, by recall."""
    kept: list[tuple[float, float]] = []
    for recall, rate in sorted(points, reverse=True):
        if not kept or rate > kept[-1][1]:
            kept.append((recall, rate))
    return kept[::-1]


def drawn(path: Path, points: Mapping[str, Sequence[tuple[float, float]]], caption: str) -> None:
    """Write the picture. Raises MissingDependency without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(f"out={path}: matplotlib is not installed; pip install 'rag-hpc[plots]'") from error
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, measured) in enumerate(points.items()):
        best = [(recall, rate) for recall, rate in frontier(measured) if recall >= LEAST]
        if best:
            xs, ys = zip(*best, strict=True)
            axes.plot(
                xs,
                ys,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                marker="os^dv"[number % 5],
                linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
                markersize=4,
            )
    axes.set_yscale("log")
    axes.set(xlabel="recall@10", ylabel="questions a second", title=caption)
    axes.title.set_fontsize(8)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "rag-hpc"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
