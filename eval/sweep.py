"""`rag-hpc scaling RUN RUN ...`: T, S and E of each stage in the runs of a sweep, against the one with fewest workers.

A speed-up counts only where the output is the same, so that is said beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.core.plan import run_handle
from rag_hpc.errors import ConfigError
from rag_hpc.eval import verify
from rag_hpc.eval.plots import line_chart
from rag_hpc.eval.results import Results, find, root_of, stage_of
from rag_hpc.eval.scaling import Speedup, speedups
from rag_hpc.eval.text import aligned, as_json, duration, percent, share

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments

STYLE = """text { font: 12px sans-serif; fill: #888 } .grid { stroke: #8884 } polyline { fill: none; stroke-width: 2 }
.line0 { stroke: #0072b2 } .line1 { stroke: #e69f00 } .line2 { stroke: #009e73 } .line3 { stroke: #cc79a7 }
.line4 { stroke: #888 } .fill0 { fill: #0072b2 } .fill1 { fill: #e69f00 } .fill2 { fill: #009e73 }
.fill3 { fill: #cc79a7 } .fill4 { fill: #888 }"""  # Okabe and Ito's colours on a light or a dark page
HEADER = ("stage", "p", "T", "S", "E", "items/s", "output", "hosts", "queue", "setup", "CPU busy", "CPU pressure")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One stage of one run. Seconds; S and E are against the first run."""

    stage: str
    run: str
    p: int
    wall_s: float
    speedup: float
    efficiency: float
    items: int  # taken in
    same_output: bool
    num_hosts: int
    queue_s: float | None  # mean over workers, not in T
    setup_s: float  # mean over workers, not in T
    cpu_s: float  # all workers together
    pressure_cpu: float | None  # percent of the time in which something waited for a CPU, mean over units


def scaling(arguments: Arguments) -> int:
    """Print the table, with `--out FILE.svg` draw S too; exit 1 when an output differs, 3 when a run is unfinished."""
    if len(arguments.words) < 2:
        raise ConfigError("name the runs of a sweep: rag-hpc scaling RUN-w1 RUN-w2 ...; see: rag-hpc status")
    root = root_of(arguments)
    runs = sorted((find(root, name) for name in arguments.words), key=lambda run: int(run.submission["workers"]))
    points = compare(runs)
    if out := arguments.values.get("--out"):
        Path(out).write_text(chart(points), encoding="utf-8")
    unfinished = {run.name: run.unfinished for run in runs if run.unfinished}
    if "--json" in arguments.flags:
        print(as_json({"baseline": runs[0].name, "unfinished": unfinished,
                       "points": [dataclasses.asdict(point) for point in points]}))
    else:
        print(f"baseline  {runs[0].name}\n\n{table(points)}")
        print("\n".join(f"unfinished: {', '.join(run.unfinished)}; go on: rag-hpc retry run={run_handle(run.run_dir)}"
                        for run in runs if run.unfinished))
    return 1 if not all(point.same_output for point in points) else 3 if unfinished else 0


def compare(runs: Sequence[Results]) -> list[Point]:
    """Return a point for each stage and run, the first run being the baseline, stages in their order."""
    found = [_point(run, speedup, differing) for run in runs
             for differing in [_differing(runs[0], run)] for speedup in speedups(run, runs[0])]
    stages = list(dict.fromkeys(point.stage for point in found))
    return sorted(found, key=lambda point: stages.index(point.stage))


def table(points: Sequence[Point]) -> str:
    """Return the points as a table for people, a stage's points under each other."""
    return aligned(HEADER, [_cells(point, first) for point, first in zip(points, _firsts(points), strict=True)])


def chart(points: Sequence[Point]) -> str:
    """Return an SVG picture of S over p, a line for each of the first four stages and one for S = p."""
    stages = list(dict.fromkeys(point.stage for point in points))[:4]
    curves = {stage: [(point.p, point.speedup) for point in points if point.stage == stage] for stage in stages}
    most = max(point.p for point in points)
    curves["S = p"] = [(1, 1), (most, most)]
    svg = line_chart(curves, x_label="p", y_label="S", y_range=(0, max(most, *(point.speedup for point in points))))
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).replace(">", f"><style>{STYLE}</style>", 1)


def _point(run: Results, found: Speedup, differing: set[str]) -> Point:
    time = found.run
    return Point(stage=found.stage, run=run.name, p=time.p, wall_s=time.wall_s, speedup=found.speedup,
                 efficiency=found.efficiency, items=time.items_in, same_output=found.stage not in differing,
                 num_hosts=len(time.hosts), queue_s=time.queue_s, setup_s=time.per_worker["setup"], cpu_s=time.cpu_s,
                 pressure_cpu=time.pressure_cpu)


def _differing(baseline: Results, run: Results) -> set[str]:
    return {stage_of(row.stage) for row in verify.compare(baseline, run) if row.verdict == verify.DIFFERS}


def _firsts(points: Sequence[Point]) -> list[bool]:
    return [number == 0 or points[number - 1].stage != point.stage for number, point in enumerate(points)]


def _cells(point: Point, first: bool) -> tuple[str, ...]:
    return (point.stage if first else "", str(point.p), duration(point.wall_s), f"{point.speedup:.2f}",
            share(point.efficiency), f"{point.items / point.wall_s:.4g}" if point.wall_s else "–",
            "same" if point.same_output else "DIFFERS", str(point.num_hosts), duration(point.queue_s),
            duration(point.setup_s), percent(100 * point.cpu_s / (point.p * point.wall_s)) if point.wall_s else "–",
            percent(point.pressure_cpu))
