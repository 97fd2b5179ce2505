"""`rag-hpc scaling RUN RUN ...`: T, S and E of each stage in the runs of a sweep, against the one with fewest workers.

A speed-up counts only where the output is the same, so that is said beside it.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, out_file
from rag_hpc.core.fs import publish_file
from rag_hpc.core.ledger import run_handle
from rag_hpc.core.log import folded
from rag_hpc.errors import ConfigError, MissingDependency
from rag_hpc.eval import serial, verify
from rag_hpc.eval.laws import Chosen, Fit, fit, karp_flatt
from rag_hpc.eval.report.plots import line_chart
from rag_hpc.eval.results import Results, named_once, stage_of
from rag_hpc.eval.tables import KINDS
from rag_hpc.eval.text import aligned, duration, percent, share
from rag_hpc.eval.times import MAX_PRESSURE, SHARED, Speedup, speedups

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

STYLE = "text { font: 12px sans-serif; fill: #888 } .grid { stroke: #8884 } polyline { fill: none; stroke-width: 2 }"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito's, stage by stage
REFERENCE = "#888888"  # of S = p
HEADER = ("stage", "p", "T", "S", "E", "e", "items/s", "output", "hosts", "queue", "setup", "CPU busy", "CPU pressure")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One stage of one run. Seconds; S and E are against the first run."""

    stage: str
    run: str
    p: int
    wall_s: float
    speedup: float
    efficiency: float
    karp_flatt: float | None  # the serial share that S alone would tell; None for p = 1
    items: int  # taken in
    same_output: bool
    num_hosts: int
    queue_s: float | None  # mean over workers, not in T
    setup_s: float  # mean over workers, not in T
    cpu_s: float  # all workers together
    pressure_cpu: float | None  # percent of the time in which something waited for a CPU, mean over units
    judged: bool  # not where the machine was shared, in this run or in the first


def scaling(arguments: Arguments) -> int:
    """Print the table, draw or write it with `--out`; exit 1 when an output differs, 3 when a run is unfinished."""
    if len(arguments.words) < 2:
        raise ConfigError("name the runs of a sweep: rag-hpc scaling RUN-w1 RUN-w2 ...; see: rag-hpc status")
    out = out_file(arguments)
    if out and out.suffix not in WRITERS:
        raise ConfigError(f"--out {out}: name a file that ends in one of {', '.join(WRITERS)}")
    runs = named_once(arguments, arguments.words, together=True)
    runs.sort(key=lambda run: int(run.submission["workers"]))
    points = compare(runs)
    laws = fits(points)
    if out:
        publish_file(out, WRITERS[out.suffix](points), overwrite=True)
    unfinished = {run.name: run.unfinished for run in runs if run.unfinished}
    if "--json" in arguments.flags:
        print(
            as_json(
                {
                    "baseline": runs[0].name,
                    "unfinished": unfinished,
                    "points": [dataclasses.asdict(point) for point in points],
                    "laws": {stage: dataclasses.asdict(chosen) for stage, chosen in laws.items()},
                    "serial": serial.of_run(runs[-1]),
                }
            )
        )
    else:
        print(f"baseline  {runs[0].name}\n\n{table(points)}")
        if lines := law_lines(laws):
            print(folded(f"\n{lines}", sys.stdout))
        if alone := serial.of_run(runs[-1]):
            said = "\n".join(f"  {step}: {what}" for step, what in alone.items())
            print(folded(f"\nserial in {runs[-1].name}, by its records:\n{said}", sys.stdout))
        if note := shared_note(points):
            print(folded(f"\n{note}", sys.stdout))
        print(
            "\n".join(
                f"unfinished: {', '.join(run.unfinished)}; go on: rag-hpc retry run={run_handle(run.run_dir)}"
                for run in runs
                if run.unfinished
            )
        )
    return 1 if not all(point.same_output for point in points) else 3 if unfinished else 0


def compare(runs: Sequence[Results]) -> list[Point]:
    """Return a point for each stage and run, the first run being the baseline, stages in their order."""
    found = [
        point_of(run.name, speedup, same_output=speedup.stage not in others)
        for run in runs
        for others in [differing(runs[0], run)]
        for speedup in speedups(run, runs[0])
    ]
    stages = list(dict.fromkeys(point.stage for point in found))
    return sorted(found, key=lambda point: stages.index(point.stage))


def point_of(name: str, found: Speedup, *, same_output: bool) -> Point:
    """Return the point of a stage in the run of that name."""
    time = found.run
    return Point(
        stage=found.stage,
        run=name,
        p=time.p,
        wall_s=time.wall_s,
        speedup=found.speedup,
        efficiency=found.efficiency,
        karp_flatt=karp_flatt(found.speedup, time.p / found.baseline.p) if found.speedup > 0 else None,
        items=time.items_in,
        same_output=same_output,
        num_hosts=len(time.hosts),
        queue_s=time.queue_s,
        setup_s=time.per_worker["setup"],
        cpu_s=time.cpu_s,
        pressure_cpu=time.pressure_cpu,
        judged=not found.shared,
    )


def differing(baseline: Results, run: Results) -> set[str]:
    """Return the stages whose output is not the baseline's."""
    return {stage_of(row.stage) for row in verify.compare(baseline, run) if row.verdict == verify.DIFFERS}


def fits(points: Sequence[Point]) -> dict[str, Chosen]:
    """Return stage -> the law that its T follows; runs of one p are repeats, those on a shared machine do not count."""
    times: dict[str, dict[int, list[float]]] = {}
    for point in points:
        if point.judged and point.same_output and point.wall_s > 0:
            times.setdefault(point.stage, {}).setdefault(point.p, []).append(point.wall_s)
    return {stage: fit(by_p) for stage, by_p in times.items()}


def law_lines(laws: Mapping[str, Chosen]) -> str:
    """Return a line for each stage whose T follows a law, and one for each reason why others have none."""
    lines = [f"{stage}: {said(chosen.fit)}" for stage, chosen in laws.items() if chosen.fit]
    reasons: dict[str, list[str]] = {}
    for stage, chosen in laws.items():
        if chosen.fit is None:
            reasons.setdefault(chosen.refused or "no law fits: T falls faster than 1 / p", []).append(stage)
    return "\n".join([*lines, *(f"no law fitted ({why}): {', '.join(stages)}" for why, stages in reasons.items())])


def said(fitted: Fit) -> str:
    """Return a law with its shares, their intervals, and the limit of S."""
    parts = [f"{fitted.law}'s law" if fitted.law == "Amdahl" else fitted.law]
    for name, part in (("serial share", fitted.serial), ("crosstalk", fitted.crosstalk)):
        parts += [f"{name} {part.value:.3g} [{max(0.0, part.low):.3g}, {part.high:.3g}]"] if part else []
    if fitted.law == "Amdahl" and fitted.serial and fitted.serial.value > 0:
        parts.append(f"S stays below {1 / fitted.serial.value:.3g}")
    return ", ".join([*parts, f"noise {100 * fitted.noise:.1f} %"])


def table(points: Sequence[Point]) -> str:
    """Return the points as a table for people, a stage's points under each other."""
    return aligned(HEADER, [_cells(point, first) for point, first in zip(points, _firsts(points), strict=True)], keys=2)


def shared_note(points: Sequence[Point]) -> str:
    """Return the line that names the points without a verdict, empty when all have one."""
    return "\n".join(
        f"not judged, {SHARED} (CPU pressure above {MAX_PRESSURE:g} %), p = {p}: {', '.join(stages)}"
        for p, stages in _not_judged(points).items()
    )


def chart(points: Sequence[Point]) -> bytes:
    """Return an SVG picture of S over p, a line for each stage that took time and one for S = p."""
    curves = _curves(points)
    most = max(y for curve in curves.values() for _, y in curve)
    svg = line_chart(curves, x_label="p", y_label="S", y_range=(0, most))
    colours = [
        f".line{n} {{ stroke: {colour} }} .fill{n} {{ fill: {colour} }}"
        for n, colour in enumerate(_colours(len(curves)))
    ]
    style = f"<style>{STYLE} {' '.join(colours)}</style>"
    note = f'<text x="58" y="10">{_caption(points)}</text>'
    svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).replace(">", f">{style}", 1)
    return svg.replace("</svg>", f"{note if _caption(points) else ''}</svg>").encode("utf-8")


def plotted(points: Sequence[Point], kind: str) -> bytes:
    """Return the same picture as matplotlib draws it, "png" or "pdf", with the bands of the laws that were fitted.

    Raises MissingDependency without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            f"--out FILE.{kind}: matplotlib is not installed; pip install 'rag-hpc[plots]', or write FILE.svg"
        ) from error
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes, curves, laws = figure.subplots(), _curves(points), fits(points)
    for number, ((name, curve), colour) in enumerate(zip(curves.items(), _colours(len(curves)), strict=True)):
        xs, ys = zip(*curve, strict=True)
        style: dict[str, Any] = {
            "marker": "os^"[number % 3],
            "linestyle": ("-", "--", ":", "-.")[number % 4],
            "markersize": 4,
        }
        axes.plot(xs, ys, label=name, color=colour, **style)
        if band := _band(laws.get(name), xs):
            axes.fill_between(xs, *band, color=colour, alpha=0.15, linewidth=0)
    ps = sorted({point.p for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ps, [str(p) for p in ps])
    axes.minorticks_off()
    axes.set(xlabel="p", ylabel="S", ylim=(0, None), title=_caption(points))
    axes.title.set_fontsize(7)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=200, metadata={"CreationDate": None} if kind == "pdf" else None)
    return out.getvalue()


def tabled(points: Sequence[Point], kind: str) -> bytes:
    """Return the points as a file for other programs, "csv" or "parquet"."""
    return KINDS[f".{kind}"]([dataclasses.asdict(point) for point in points])


WRITERS: dict[str, Callable[[Sequence[Point]], bytes]] = {
    ".svg": chart,
    ".png": lambda points: plotted(points, "png"),
    ".pdf": lambda points: plotted(points, "pdf"),
    ".csv": lambda points: tabled(points, "csv"),
    ".parquet": lambda points: tabled(points, "parquet"),
}


def _curves(points: Sequence[Point]) -> dict[str, list[tuple[float, float]]]:
    """Return stage -> (p, S) for the stages that took time to the same output, then the line of S = p."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point.same_output and point.wall_s > 0 and point.speedup > 0:
            curves.setdefault(point.stage, []).append((point.p, point.speedup))
    most = max(point.p for point in points)
    return {**curves, "S = p": [(1, 1), (most, most)]}


def _band(chosen: Chosen | None, ps: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """Return the least and the most S at each p that the fitted law expects of one more run, None without a law."""
    if chosen is None or chosen.fit is None:
        return None
    times = [chosen.fit.seconds(p) for p in ps]
    if any(time.low <= 0 for time in times):
        return None  # so wide that S has no upper end
    t1_s = chosen.fit.t1_s.value
    return [t1_s / time.high for time in times], [t1_s / time.low for time in times]


def _colours(num: int) -> list[str]:
    return [*(COLOURS[n % len(COLOURS)] for n in range(num - 1)), REFERENCE]


def _caption(points: Sequence[Point]) -> str:
    counts = [f"p = {p} ({len(stages)} stages)" for p, stages in _not_judged(points).items()]
    return f"not judged, {SHARED}: {', '.join(counts)}" if counts else ""


def _not_judged(points: Sequence[Point]) -> dict[int, list[str]]:
    stages: dict[int, list[str]] = {}
    for point in points:
        if not point.judged:
            others = stages.setdefault(point.p, [])
            others += [point.stage] * (point.stage not in others)  # once, however often it was measured
    return stages


def _firsts(points: Sequence[Point]) -> list[bool]:
    return [number == 0 or points[number - 1].stage != point.stage for number, point in enumerate(points)]


def _cells(point: Point, first: bool) -> tuple[str, ...]:
    return (
        point.stage if first else "",
        str(point.p),
        duration(point.wall_s),
        f"{point.speedup:.2f}",
        share(point.efficiency),
        "–" if point.karp_flatt is None else f"{point.karp_flatt:.3f}",
        f"{point.items / point.wall_s:.4g}" if point.wall_s else "–",
        "same" if point.same_output else "DIFFERS",
        str(point.num_hosts),
        duration(point.queue_s),
        duration(point.setup_s),
        percent(100 * point.cpu_s / (point.p * point.wall_s)) if point.wall_s else "–",
        percent(point.pressure_cpu),
    )
