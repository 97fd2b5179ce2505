"""What fusing buys: the fused ranking's gain over each of its signals, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rag_hpc.errors import MissingDependency
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.scaling import COLOURS

SIGNALS = ("bm25", "dense")
Scores = Mapping[str, Mapping[str, float]]  # ranking -> question -> nDCG


def rows(name: str, scores: Scores, used: Sequence[str], *, judged: bool) -> list[Row]:
    """Return the gain over each signal with its paired interval, and the share of questions where fused and dense
    differ."""
    found = []
    for signal in SIGNALS:
        fused, alone = ([scores[ranking][q] for q in used] for ranking in ("fused", signal))
        gain, interval = difference_of_means(fused, alone)
        found.append(
            Row(
                name=f"rank.{name}.over_{signal}",
                ours=gain,
                unit="nDCG@10 gained",
                ratio=gain,
                interval=interval,
                bar=0.0 if judged else None,
            )
        )
    gains_Q = np.array(gains(scores, used))
    shares = {"better": float((gains_Q > 0).mean()), "worse": float((gains_Q < 0).mean())}
    differs = float((gains_Q != 0).mean())
    return [*found, Row(name=f"rank.{name}.differs", ours=differs, unit="of the questions", peers=shares)]


def gains(scores: Scores, used: Sequence[str]) -> list[float]:
    """Return the fused ranking's gain over the dense one in each question, falling."""
    return sorted((scores["fused"][q] - scores["dense"][q] for q in used), reverse=True)


def drawn(path: Path, by_collection: Mapping[str, Sequence[float]]) -> None:
    """Write the picture of what `gains` returns. Raises MissingDependency without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(f"out={path}: matplotlib is not installed; pip install 'rag-hpc[plots]'") from error
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, values) in enumerate(by_collection.items()):
        shares = (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(shares, values, label=f"{name} ({len(values)})", color=COLOURS[number % len(COLOURS)], linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="share of the questions, by gain", ylabel="nDCG@10, fused less dense")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "rag-hpc"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
