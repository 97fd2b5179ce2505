"""The plan's milestones: which ceiling of one machine moves a stage out, and what must then come of it.

`milestones=plan` predicts them all (conf/milestones/plan.yaml). They stand in the plan's order: with
`milestones.strict=true` what comes after a missed one is not judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_hpc.eval import quality
from rag_hpc.eval.metrics import interval
from rag_hpc.eval.results import Results, stage_of
from rag_hpc.eval.text import percent, share
from rag_hpc.eval.times import SHARED, speedups, stage_times
from rag_hpc.eval.verdicts import MISSED, NOT_JUDGED, Milestone, at_least, bound_text, kept, unjudged
from rag_hpc.stores.vectors import VECTORS

LITTLE = 0.1  # of T: a stage that takes less hits no ceiling of throughput
RECALL = "R@10"


def rows(run: Results, baseline: Results | None, predicted: dict[str, Any], same: bool | None) -> list[Milestone]:
    """Return the rows that are predicted of the run. same: whether its output is the baseline's."""
    made = {
        "min_memory_ratio": _memory(run, predicted),
        "max_recall_loss": _recall(run, baseline, predicted),
        "max_f1_loss": _answers(run, baseline, predicted),
        "min_speedup": _whole(run, baseline, predicted, same),
    }
    return [row for key, row in made.items() if predicted.get(key) is not None]


def in_order(found: Sequence[Milestone], *, strict: bool) -> list[Milestone]:
    """Return the rows with what an earlier miss means for later ones: a warning, or with `strict` no verdict."""
    told, missed = [], ""
    for row in found:
        said = "; ".join(filter(None, [row.note, f"after {missed}, which was missed"]))
        if not missed or row.verdict == NOT_JUDGED:
            told.append(row)
        else:
            verdict = NOT_JUDGED if strict and row.verdict != MISSED else row.verdict
            told.append(dataclasses.replace(row, note=said, verdict=verdict))
        if row.verdict == MISSED and not missed:
            missed = row.name
    return told


def binding(run: Results) -> str:
    """Return which stage takes most of the run's time, and which take too little to be worth a second machine."""
    times = {time.stage: time.wall_s for time in stage_times(run)}
    total = sum(times.values())
    if not total:
        return ""
    most = max(times, key=lambda stage: times[stage])
    little = [stage for stage, seconds in times.items() if seconds < LITTLE * total and stage != most]
    said = f"{most} is {percent(100 * times[most] / total)} of the run's time: scale that first"
    return f"{said}; below {percent(100 * LITTLE)} each, nothing to gain: {', '.join(little)}" if little else said


def _memory(run: Results, predicted: dict[str, Any]) -> Milestone:
    name, bound = "vectors, in nodes' memories", predicted.get("min_memory_ratio")
    cluster = run.config.get("cluster", {})
    own = (cluster.get("stages") or {}).get("vectors") or {}
    budget = own.get("mem_gib") or cluster.get("mem_gib")
    if "encode" not in run.manifests or not budget:
        why = "encode is not finished" if budget else "cluster.mem_gib does not say what a node has"
        return unjudged(name, bound_text(bound, share), why)
    num_bytes = sum(unit["files"][VECTORS]["bytes"] for unit in run.manifests["encode"].units)
    row = at_least(name, num_bytes / (budget * 2**30), bound, share, "")
    return dataclasses.replace(row, note=f"{num_bytes / 2**30:.3g} GiB, of a node {budget:g}")


def _recall(run: Results, baseline: Results | None, predicted: dict[str, Any]) -> Milestone:
    chosen = quality.handed_on(run)
    name = f"{RECALL}, {chosen or 'ranking'}, against the baseline"
    values = [_by_query(one, chosen, RECALL) for one in (run, baseline)]
    return _kept(name, values, predicted.get("max_recall_loss"))


def _answers(run: Results, baseline: Results | None, predicted: dict[str, Any]) -> Milestone:
    values = [
        {line["query_id"]: line["f1"] for line in quality.answer_lines(one) if line["f1"] is not None} if one else {}
        for one in (run, baseline)
    ]
    return _kept("answer F1, against the baseline", values, predicted.get("max_f1_loss"))


def _kept(name: str, values: Sequence[dict[str, float]], most: float | None) -> Milestone:
    own, theirs = values
    both = sorted(own.keys() & theirs.keys())
    if not both or most is None:
        return unjudged(name, f"loses <= {share(most or 0.0)}", "no question is judged in this run and in its baseline")
    gains = np.array([own[query] - theirs[query] for query in both])
    row = kept(name, (float(gains.mean()), *interval(gains.tolist())), most)
    return dataclasses.replace(row, note="; ".join(filter(None, [row.note, f"{len(both)} questions"])))


def _by_query(run: Results | None, method: str | None, measure: str) -> dict[str, float]:
    parts = quality.measured(run) if run else []
    return next((part.by_query.get(measure, {}) for part in parts if part.part == method), {})


def _whole(run: Results, baseline: Results | None, predicted: dict[str, Any], same: bool | None) -> Milestone:
    """Return S of all stages that both ran, which counts at equal answers only."""
    name, bound = "S, end to end", predicted.get("min_speedup")
    pairs = speedups(run, baseline) if baseline else []
    if not pairs or run.unfinished or not same:
        why = "the output is not the baseline's" if same is False else "needs a finished baseline and run"
        return unjudged(name, bound_text(bound, share), why)
    ours, theirs = (sum(getattr(pair, side).wall_s for pair in pairs) for side in ("run", "baseline"))
    row = at_least(name, theirs / ours, bound, share, "")
    stages = {stage_of(step) for step in run.stages} - {pair.stage for pair in pairs}
    note = f"p = {max(pair.run.p for pair in pairs)}" + (f"; without {', '.join(sorted(stages))}" if stages else "")
    if any(pair.shared for pair in pairs):
        return dataclasses.replace(row, verdict=NOT_JUDGED, note=f"{SHARED}; {note}")
    return dataclasses.replace(row, note=note)
