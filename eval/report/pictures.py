"""The pictures of a study's report, each with the rows that it was drawn from; none where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rag_hpc.errors import MissingDependency
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.report import figures, measured
from rag_hpc.eval.report.figures import Bars, Dot, Drawn, Panel
from rag_hpc.eval.report.measured import Curve
from rag_hpc.eval.study import Study, StudyRun
from rag_hpc.eval.times import PARTS

MANY = 3  # distinct p of a curve that is drawn
AHEAD = 2  # times the largest p that a law is drawn to
STEPS = 24
MOST_ROWS = 40
WORKER = ("submission", "job_id", "array_task_id", "restarts", "host", "rank", "setup_s")
RANKINGS = ("bm25", "dense", "fused", "reranked", "ann")
DRAWN_MEASURES = ("nDCG@10", "f1")


def all_of(studies: Sequence[Study], prices: Prices) -> list[Drawn]:
    """Return all pictures; none at all without matplotlib."""
    try:
        with figures.styled():
            return [*_curves(studies), *_times(studies), *_quality(studies), *_cost(studies, prices)]
    except MissingDependency:
        return []


def _curves(studies: Sequence[Study]) -> Iterator[Drawn]:
    drawn = [curve for study in studies for curve in measured.curves(study) if len(curve.ps) >= MANY]
    if not drawn:
        return
    panels, rows = [_panel(curve) for curve in drawn], [row for curve in drawn for row in curve.rows()]
    yield Drawn(name="speed-up", figure=figures.speed_up(panels), rows=rows)
    yield Drawn(name="efficiency", figure=figures.speed_up(panels, efficiency=True), rows=rows)


def _panel(curve: Curve) -> Panel:
    first, fitted = curve.mean(curve.ps[0]), []
    if law := curve.chosen.fit:
        last = AHEAD * curve.ps[-1]
        for step in range(STEPS + 1):
            p = curve.ps[0] * (last / curve.ps[0]) ** (step / STEPS)
            seen = law.seconds(p)
            fitted.append((p, first / seen.value, first / seen.high, first / max(seen.low, seen.value / 4)))
    return Panel(
        title=f"{curve.part}: {curve.stage}",
        points=[
            (p, first / time.wall_s, curve.judged(time)) for p in curve.ps for time in curve.times[p] if time.wall_s
        ],
        fitted=fitted,
        foretold_from=curve.ps[-1],
        bound=curve.bound,
        note=law.law if law else "no law fitted",
    )


def _times(studies: Sequence[Study]) -> Iterator[Drawn]:
    for study in studies:
        swept = [curve for curve in measured.curves(study) if len(curve.ps) >= MANY]
        if swept:
            curve = swept[0]
            p = curve.ps[-1]
            run = next(one for one in study.runs if one.run == curve.runs[p][0])
            yield _gantt(f"units-{study.name}", run, curve.stage)
    whole = [(study, max(study.runs, key=lambda run: run.workers)) for study in studies]
    for study, run in whole:
        if len(run.times()) > MANY and all(time.num_submissions == 1 for time in run.times().values()):
            yield _waterfall(f"waterfall-{study.name}", run)


def _gantt(name: str, run: StudyRun, stage: str) -> Drawn:
    records = run.by_stage()[stage]
    begun = min(r["started_unix"] for r in records)
    steps = list(dict.fromkeys(r["stage"] for r in records))
    workers: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in sorted(records, key=lambda r: float(r["started_unix"])):
        workers.setdefault(tuple(r[key] for key in WORKER), []).append(r)
    rows = [
        Bars(
            label=f"{own[0]['host']}, worker {number}",
            parts=[
                (r["started_unix"] - begun, r["ended_unix"] - r["started_unix"], steps.index(r["stage"]) % 5)
                for r in own
            ],
            note=f"{len(own)} units" if len(own) > 1 else "1 unit",
        )
        for number, own in enumerate(list(workers.values())[:MOST_ROWS])
    ]
    figure = figures.gantt(rows, f"seconds since the first unit began, {stage} of {run.run}")
    told = ("stage", "unit", "host", "array_task_id", "rank", "attempt", "started_unix", "ended_unix")
    if len(steps) > 1:
        figures.legend(figure, [(step, number % 5) for number, step in enumerate(steps)])
    return Drawn(name=name, figure=figure, rows=[{key: r[key] for key in told} for r in records])


def _waterfall(name: str, run: StudyRun) -> Drawn:
    """Return when each stage of a run was at work, and before that the mean queue and set-up of its workers."""
    times, by_stage = run.times(), run.by_stage()
    spans = {
        s: (min(r["started_unix"] for r in rows), max(r["ended_unix"] for r in rows)) for s, rows in by_stage.items()
    }
    shown = sorted(times, key=lambda s: spans[s])
    begun = min(spans[s][0] - times[s].per_worker["queue"] - times[s].per_worker["setup"] for s in shown)
    rows, told = [], []
    for stage in shown:
        (first, last), mean = spans[stage], times[stage].per_worker
        at = first - begun
        parts = [(at - mean["setup"] - mean["queue"], mean["queue"], 5), (at - mean["setup"], mean["setup"], 1)]
        parts.append((at, last - first, 0))
        rows.append(Bars(label=stage, parts=parts, note=f"T = {times[stage].wall_s:.1f} s, p = {times[stage].p}"))
        told.append(
            {
                "stage": stage,
                "p": times[stage].p,
                "begun_s": at,
                "ended_s": last - begun,
                "T_s": times[stage].wall_s,
                **{k: mean[k] for k in PARTS},
            }
        )
    figure = figures.gantt(rows, f"seconds since {run.run} was asked for")
    legend = [("queue (mean of the workers)", 5), ("set-up (mean)", 1), ("first unit to last commit", 0)]
    return Drawn(name=name, figure=figures.legend(figure, legend), rows=told)


def _quality(studies: Sequence[Study]) -> Iterator[Drawn]:
    dots: list[Dot] = []
    rows: list[dict[str, Any]] = []
    for study in studies:
        for run in _asked(study):
            for row in run.means:
                if row["measure"] in DRAWN_MEASURES and row["method"] in (*RANKINGS, "answers"):
                    label = f"{run.run}: {row['method']}"
                    group = "answer F1" if row["method"] == "answers" else f"{row['measure']} of rankings"
                    dots.append(Dot(label=label, value=row["mean"], low=row["low"], high=row["high"], group=group))
                    rows.append({"part": study.name, **row})
    if dots:
        ordered = sorted(dots, key=lambda dot: dot.group)[:MOST_ROWS]
        figure = figures.intervals(ordered, "mean over the questions, with its 95 % interval")
        groups = list(dict.fromkeys(dot.group for dot in ordered))
        yield Drawn(
            name="quality", figure=figures.legend(figure, [(g, n % 5) for n, g in enumerate(groups)]), rows=rows
        )
    yield from _frontier(studies)


def _frontier(studies: Sequence[Study]) -> Iterator[Drawn]:
    """Yield what a query costs, and finds, in runs that differ in settings: recall, or else what is not alike."""
    for study in (one for one in studies if one.no_curve):
        differ = measured.settings_that_differ(study)
        shown = [(run, latency) for run in _asked(study) if (latency := measured.latency_s(run))]
        for measure in ("R@10", "nDCG@10", "f1"):
            found = [(run, latency, row) for run, latency in shown if (row := measured.measure_of(run, measure))]
            if len({row["mean"] for *_, row in found}) < 2:
                continue
            dots = [
                Dot(
                    label=", ".join(str(by_run[run.run]) for by_run in differ.values()) or run.run,
                    value=row["mean"],
                    low=row["low"],
                    high=row["high"],
                    x=1000 * latency,
                    group=", ".join(differ) or study.name,
                )
                for run, latency, row in found
            ]
            label = "answer F1" if measure == "f1" else f"{measure} of the ranking that answers are made from"
            figure = figures.frontier(dots, "milliseconds of a worker, a query", label)
            rows = [
                {"run": run.run, "ms_per_query": dot.x, measure: dot.value, "low": dot.low, "high": dot.high}
                for (run, *_), dot in zip(found, dots, strict=True)
            ]
            yield Drawn(name=f"frontier-{study.name}", figure=figure, rows=rows)
            break


def _asked(study: Study) -> list[StudyRun]:
    """Return the runs whose quality is shown: of repeats and of several p, whose answers are the same, the last."""
    judged = [run for run in study.runs if run.means]
    return judged if study.no_curve else judged[-1:]


def _cost(studies: Sequence[Study], prices: Prices) -> Iterator[Drawn]:
    rows, bars, stages = [], [], list[str]()
    money = any(getattr(prices, key) for key in ("core_hour", "gpu_hour", "node_hour", "kwh"))
    for study in studies:
        if not any(run.counts.get("queries") for run in study.runs):
            continue
        for one in measured.costs(study, prices):
            stages += [row.stage for row in one.stages if row.stage not in stages]
            at, parts = 0.0, []
            for row in one.stages:
                value = row.cost if money else row.usage.core_s
                parts.append((at, value, stages.index(row.stage) % len(figures.COLOURS)))
                at += value
                rows.append(
                    {
                        "part": study.name,
                        "run": one.run,
                        "stage": row.stage,
                        "core_s": row.usage.core_s,
                        "cost": row.cost,
                    }
                )
            bars.append(Bars(label=one.run, parts=parts, note=f"{at:.3g}"))
    if bars and not math.isclose(sum(n for bar in bars for _, n, _ in bar.parts), 0.0):
        unit = f"{prices.currency}, prices {prices.name}" if money else "core-seconds held"
        figure = figures.gantt(bars[:MOST_ROWS], unit)
        names = [(stage, number % len(figures.COLOURS)) for number, stage in enumerate(stages)]
        yield Drawn(name="cost", figure=figures.legend(figure, names), rows=rows)
