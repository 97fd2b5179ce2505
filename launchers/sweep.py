"""`rag-hpc sweep sweep=encode_strong p=1,2,4`: how one stage scales, each p measured until its mean is sure enough.

The stages before it run once; every measurement is a run of its own, NAME-pP-rR, whose inputs are links to theirs. The
measurements of a round come in an order that a seed shuffles, so that a machine that slows down is not mistaken for a
law. What is measured is not measured again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, number_between, out_file, whole_number
from rag_hpc.core.fs import publish_file
from rag_hpc.errors import ConfigError, did_you_mean
from rag_hpc.eval import scaling
from rag_hpc.eval.laws import Chosen, student
from rag_hpc.eval.results import Results, stage_of
from rag_hpc.eval.text import aligned, duration, share
from rag_hpc.eval.times import StageTime, stage_times
from rag_hpc.launchers.cells import Cell, ledger_of, own_submissions, run_all, run_base
from rag_hpc.launchers.request import make_request
from rag_hpc.stages.registry import stage_class

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments
    from rag_hpc.config import RunConfig
    from rag_hpc.core.ledger import Ledger

STAGES = ("crawl", "clean", "dedup", "chunk", "lexical", "encode", "vectors", "retrieve", "generate")
KINDS = ("strong", "weak", "throughput")
OWN = ("sweep", "p", "repeats", "most", "half_width", "tries", "seed", "size", "base", "run", "workers")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is swept. strong: p workers share the work; weak: it grows with p; throughput: it alone grows."""

    stage: str
    kind: str
    ps: list[int]  # of throughput: by how much the work grows
    repeats: int = 3
    most: int = 10
    half_width: float = 0.05  # of the mean's 95 % interval, in shares of the mean
    tries: int = 2  # of a measurement that fails; then it is left out
    seed: int = 0
    size: str = "corpus.max_pages"  # the setting that the work grows by, where it grows
    base: int = 0  # its value at 1
    name: str | None = None
    workers: int = 1  # of throughput

    def settings(self, p: int) -> list[str]:
        """Return the overrides of a point's own."""
        return [] if self.kind == "strong" else [f"{self.size}={self.base * p}"]

    def num_workers(self, p: int) -> int:
        """Return how many workers a point has."""
        return self.workers if self.kind == "throughput" else p


@dataclass
class Point:
    """What was measured at one p. Seconds."""

    p: int
    workers: int
    seconds: list[float] = field(default_factory=list)
    items: int = 0
    failed: list[str] = field(default_factory=list)  # runs that were given up
    pressure_cpu: float | None = None  # the largest of its measurements', percent

    @property
    def mean(self) -> float:
        """T."""
        return statistics.fmean(self.seconds) if self.seconds else math.nan

    @property
    def half_width(self) -> float:
        """Half of the mean's 95 % interval, by Student's t, in shares of it; infinite with one measurement."""
        n = len(self.seconds)
        if n < 2 or self.mean <= 0:
            return math.inf
        return student(n - 1) * statistics.stdev(self.seconds) / math.sqrt(n) / self.mean


def sweep(arguments: Arguments) -> int:
    """Measure, and print the table; exit 1 when outputs differ or a measurement was given up, 3 when stopped."""
    study, overrides = read_study(arguments)
    out = out_file(arguments)
    if out and out.suffix not in scaling.WRITERS:
        raise ConfigError(f"--out {out}: name a file that ends in one of {', '.join(scaling.WRITERS)}")
    sweeper = Sweeper(study, overrides, arguments)
    if "--dry-run" in arguments.flags:
        print(sweeper.described())
        return 0
    measured = sweeper.measure()
    points = [measured[p] for p in study.ps]
    compared = sweeper.compared()
    chosen = scaling.fits(compared).get(study.stage)
    differing = sorted({one.run for one in compared if not one.same_output})
    if out and compared:
        publish_file(out, scaling.WRITERS[out.suffix](compared), overwrite=True)
    if "--json" in arguments.flags:
        print(as_json(_plain(study, sweeper.name, points, chosen, differing)))
    else:
        print(_table(study, sweeper.name, points, chosen))
        if note := scaling.shared_note(compared):
            print(note)
        if differing:
            print(f"not the same output as {compared[0].run}: {', '.join(differing)}")
    return 1 if differing or any(point.failed for point in points) else 0


def read_study(arguments: Arguments) -> tuple[Study, list[str]]:
    """Return the study that the command line asks for, and the overrides of its runs. Raises ConfigError."""
    stage, _, kind = (arguments.override("sweep") or "").rpartition("_")
    if stage not in STAGES or kind not in KINDS:
        given = arguments.override("sweep")
        known = [f"{a}_{b}" for a in STAGES for b in KINDS]
        raise ConfigError(
            f"sweep={given or ''}: STAGE_KIND is needed, such as sweep=encode_strong; "
            f"{did_you_mean(given, known) if given else ''}stages: {', '.join(STAGES)}; kinds: {', '.join(KINDS)}"
        )
    ps = sorted({whole_number("p", one.strip(), 1, least=1) for one in (arguments.override("p") or "1,2,4").split(",")})
    if len(ps) < 2:
        raise ConfigError(f"p={arguments.override('p')}: a curve needs at least two, such as p=1,2,4")
    whole = {
        key: whole_number(key, arguments.override(key), default, least=1)
        for key, default in (("repeats", 3), ("most", 10), ("tries", 2), ("workers", 1))
    }
    seed = whole_number("seed", arguments.override("seed"), 0, least=0)
    given_width = arguments.override("half_width")
    width = 0.05 if given_width is None else number_between("half_width", given_width, 0.001, 1.0)
    if whole["most"] < whole["repeats"]:
        raise ConfigError(f"most={whole['most']}: no fewer than repeats={whole['repeats']}")
    base = whole_number("base", arguments.override("base"), 0, least=1) if kind != "strong" else 0
    if kind != "strong" and not base:
        raise ConfigError(f"sweep={stage}_{kind}: base=N is needed, the size at 1: pages, or what size=KEY sets")
    size = arguments.override("size") or "corpus.max_pages"
    study = Study(
        stage=stage, kind=kind, ps=ps, half_width=width, seed=seed, size=size, base=base,
        name=arguments.override("run"), **whole,
    )  # fmt: skip
    overrides = [one for one in arguments.overrides if one.split("=", 1)[0] not in OWN]
    if swept := [one for one in overrides if one.split("=", 1)[0].startswith("pipeline.stages")]:
        raise ConfigError(f"{swept[0]}: a sweep takes the stages that {stage} needs, and no others")
    return study, overrides


class Sweeper:
    """The runs of a study."""

    def __init__(self, study: Study, overrides: list[str], arguments: Arguments) -> None:
        from rag_hpc.config import check, compose

        self._study, self._arguments = study, arguments
        whole = compose([*overrides, *study.settings(study.ps[0])], arguments.config_dir)
        check(whole)
        targets = [step for step in whole.stages if stage_of(step) == study.stage]
        if not targets:
            raise ConfigError(f"sweep={study.stage}_{study.kind}: the pipeline has no stage {study.stage}")
        before = _needed(whole.stages, targets)
        requested = make_request(whole)
        self.name = study.name or f"{study.stage}-{study.kind}-{requested.run.rsplit('-', 1)[-1]}"
        self._targets = targets

        def composed(name: str, p: int, workers: int, stages: list[str]) -> RunConfig:
            own = [f"run={name}", f"workers={workers}", f"pipeline.stages=[{','.join(stages)}]"]
            return compose([*overrides, *study.settings(p), *own], arguments.config_dir)

        sizes = {p: "" if study.kind == "strong" else f"-n{p}" for p in study.ps}
        most = max(study.num_workers(p) for p in study.ps)
        self._bases = {p: composed(f"{self.name}{sizes[p]}-base", p, most, before) for p in study.ps} if before else {}

        def cell(p: int, repeat: int) -> Cell:
            name = f"{self.name}-p{p}-r{repeat}"
            config = composed(name, p, study.num_workers(p), [*before, *targets])
            base = self._bases.get(p)
            return Cell(config=config, base=ledger_of(base) if base else None, p=p, repeat=repeat)

        self._cells = {p: [cell(p, repeat) for repeat in range(1, study.most + 1)] for p in study.ps}

    def described(self) -> str:
        """Return what would be run."""
        study = self._study
        lines = [f"study {self.name}: {', '.join(self._targets)} at p = {', '.join(map(str, study.ps))}"]
        lines += [f"first {run}" for run in sorted({ledger_of(config).name for config in self._bases.values()})]
        lines += [f"then {cell.ledger.name}" for cell in self._round()]
        width = f"then one more of each until half of its interval is {share(study.half_width)} of its mean"
        return "\n".join([*lines, f"{width}, or {study.most} are done"])

    @property
    def first(self) -> RunConfig:
        """The run that is made first."""
        return next(iter(self._bases.values()), self._cells[self._study.ps[0]][0].config)

    def measure(self, start: Ledger | None = None) -> dict[int, Point]:
        """Run what is not measured yet, round by round; return what was measured at each p.

        start: a run whose finished stages the first ones take over.
        """
        for config in {ledger_of(config).name: config for config in self._bases.values()}.values():
            run_base(Cell(config=config, base=start), self._arguments)
        while cells := self._round():
            run_all(cells, self._arguments)
        return {p: self._point(p) for p in self._study.ps}

    def runs(self) -> list[Results]:
        """Return the measurements that are finished, by p."""
        return [Results(cell.ledger.run_dir) for p in self._study.ps for cell in self._cells[p] if cell.finished]

    def compared(self) -> list[scaling.Point]:
        """Return a point of the stage for each measurement, against the first of fewest workers; none where the work
        differs."""
        if self._study.kind != "strong":
            return []
        done = self.runs()
        return [one for one in scaling.compare(done) if one.stage == self._study.stage] if done else []

    def _round(self) -> list[Cell]:
        """Return the measurements that are lacking, shuffled: all repeats at first, then one more where T is unsure."""
        chosen = []
        for p, cells in self._cells.items():
            point = self._point(p)
            done = len(point.seconds) + len(point.failed)
            wanted = self._study.repeats
            if point.seconds and done >= wanted and point.half_width > self._study.half_width:
                wanted = min(done + 1, self._study.most)
            chosen += [cell for cell in cells[:wanted] if not self._settled(cell)]
        random.Random(f"{self._study.seed} {sum(cell.repeat for cell in chosen)}").shuffle(chosen)
        return chosen

    def _settled(self, cell: Cell) -> bool:
        return cell.finished or len(own_submissions(cell.ledger)) >= self._study.tries

    def _point(self, p: int) -> Point:
        point = Point(p, self._study.num_workers(p))
        for cell in self._cells[p]:
            if cell.finished:
                time = _time(cell.ledger, self._study.stage)
                point.seconds.append(time.wall_s)
                point.items = time.items_in
                point.pressure_cpu = max(time.pressure_cpu or 0.0, point.pressure_cpu or 0.0)
            elif self._settled(cell):
                point.failed.append(cell.ledger.name)
        return point


def _needed(stages: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the stages that the targets need, and those that these need, in the pipeline's order."""
    needed = set(targets)
    for step in reversed(stages):
        if step in needed:
            needed |= {*stage_class(step).needs, *stage_class(step).wants} & set(stages)
    return [step for step in stages if step in needed and step not in targets]


def _time(ledger: Ledger, stage: str) -> StageTime:
    return next(time for time in stage_times(Results(ledger.run_dir)) if time.stage == stage)


def _speed(study: Study, first: Point, point: Point) -> tuple[float, float]:
    """Return S and E: weak S is scaled by the work (Gustafson), throughput's is how the rate of items changes."""
    gain = first.mean / point.mean
    if study.kind == "strong":
        return gain, gain * first.p / point.p
    scaled = gain * point.p / first.p
    return scaled, gain if study.kind == "weak" else scaled


def _table(study: Study, name: str, points: Sequence[Point], chosen: Chosen | None) -> str:
    rows = []
    for point in points:
        speed, efficiency = _speed(study, points[0], point)
        half = "–" if math.isinf(point.half_width) else f"± {share(point.half_width)}"
        note = f"{len(point.failed)} given up: {', '.join(point.failed)}" if point.failed else ""
        if point.seconds and point.half_width > study.half_width:
            note = f"wider than {share(study.half_width)}; {note}".rstrip("; ")
        rate = f"{point.items / point.mean:.4g}" if point.seconds else "–"
        cells = (f"{speed:.2f}", share(efficiency), rate) if point.seconds and points[0].seconds else ("–", "–", rate)
        took = duration(point.mean) if point.seconds else "–"
        pressure = "–" if point.pressure_cpu is None else f"{point.pressure_cpu:.0f} %"
        rows.append((str(point.p), str(point.workers), str(len(point.seconds)), took, half, *cells, pressure, note))
    header = ("p" if study.kind != "throughput" else "size", "workers", "runs", "T", "95 %", "S", "E", "items/s")
    lines = [f"study {name}: {study.stage}, {study.kind}", aligned((*header, "CPU pressure, most", ""), rows)]
    if chosen is not None:
        lines.append(scaling.law_lines({study.stage: chosen}))
    return "\n".join(lines)


def _plain(
    study: Study, name: str, points: Sequence[Point], chosen: Chosen | None, differing: Sequence[str]
) -> dict[str, Any]:
    rows = []
    for point in points:
        speed, efficiency = _speed(study, points[0], point)
        known = bool(point.seconds and points[0].seconds)
        half = point.half_width
        rows.append(
            {
                **dataclasses.asdict(point),
                "mean_s": point.mean if point.seconds else None,
                "half_width": None if math.isinf(half) else half,
                "speedup": speed if known else None,
                "efficiency": efficiency if known else None,
            }
        )
    value = {"study": name, **dataclasses.asdict(study), "name": name, "points": rows, "differing": list(differing)}
    return {**value, "law": dataclasses.asdict(chosen) if chosen else None}
