"""`rag-hpc milestones RUN`: predictions written before the run against its results; the exit code is the verdict.

Predictions stand in the run's config (`milestones.*`); that the answers are the baseline's and that no item is lost
is predicted of every run.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, group_values
from rag_hpc.core.ledger import run_handle
from rag_hpc.core.log import folded
from rag_hpc.eval import ceilings, curves, loads, priced, quality, verify
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.results import Results, choose_baseline, chosen_run, same_documents
from rag_hpc.eval.text import aligned, duration, percent, share
from rag_hpc.eval.times import SHARED, Speedup, speedups, stage_times
from rag_hpc.eval.verdicts import HIT, MISSED, NOT_JUDGED, Milestone, at_least, bound_text, unjudged
from rag_hpc.schema import from_plain

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

DUPLICATES = ("exact-duplicate", "near-duplicate")
TITLES = "titles stand in for questions"
OTHER_DOCUMENTS = "the baseline has other documents or questions"
NDCG = "nDCG@10"
TIMED = ("crawl", "encode")  # stages whose efficiency may be predicted


def milestones(arguments: Arguments) -> int:
    """Print the table; exit 0 when nothing was missed, 1 when something was, 3 when the run is unfinished."""
    run = chosen_run(arguments)
    baseline = choose_baseline(arguments, run)
    rows = judge(run, baseline, from_plain(Prices, group_values(arguments, "cost", "example")))
    code = 1 if any(row.verdict == MISSED for row in rows) else 3 if run.unfinished else 0
    if "--json" in arguments.flags:
        print(
            as_json(
                {
                    "run": run.name,
                    "baseline": baseline.name if baseline else None,
                    "unfinished": run.unfinished,
                    "missed": sum(row.verdict == MISSED for row in rows),
                    "milestones": [dataclasses.asdict(row) for row in rows],
                    "notes": quality.caveats(run),
                    "binds": ceilings.binding(run),
                }
            )
        )
        return code
    print(f"run       {run.name}\nbaseline  {baseline.name if baseline else 'none beside the run'}\n")
    cells = [(row.name, row.predicted, row.result, row.verdict, row.note) for row in rows]
    print(aligned(("milestone", "predicted", "result", "verdict", ""), cells))
    binds = ceilings.binding(run)
    said = [folded(line, sys.stdout) for line in (*quality.caveats(run), *([binds] if binds else []), summary(rows))]
    print("\n".join(["", *said]))
    if run.unfinished:
        print(f"unfinished: {', '.join(run.unfinished)}; go on: rag-hpc retry run={run_handle(run.run_dir)}")
    return code


def judge(run: Results, baseline: Results | None, prices: Prices | None = None) -> list[Milestone]:
    """Return all rows: those predicted of every run, those of its config, and the times, which nobody predicts.

    Without prices a cost is told of only where one is predicted, and not judged.
    """
    predicted = run.config.get("milestones", {})
    answers = _same_answers(run, baseline)
    same = None if answers.verdict == NOT_JUDGED else answers.verdict == HIT
    found = [
        answers,
        _counts(run),
        *_same_curves(run, baseline),
        *_quality(run, predicted),
        *_speed(run, baseline, predicted),
        *ceilings.rows(run, baseline, predicted, same),
        *priced.rows(run, baseline, predicted, prices),
        *loads.rows(run, predicted),
    ]
    return [*ceilings.in_order(found, strict=bool(predicted.get("strict"))), *_times(run)]


def summary(rows: list[Milestone]) -> str:
    """Return one line on all rows."""
    judged = [row for row in rows if row.verdict != NOT_JUDGED]
    hits = sum(row.verdict == HIT for row in judged)
    return f"{hits} of {len(judged)} milestones hit, {len(judged) - hits} missed, {len(rows) - len(judged)} not judged"


def lost_items(run: Results) -> list[str]:
    """Return a line for each place where items are unaccounted for; empty when everything adds up."""
    found, lines = run.manifests, []
    for stage, manifest in found.items():
        given, out, dropped = manifest.total("items_in"), manifest.total("items_out"), sum(manifest.dropped().values())
        if given != out + dropped:
            lines.append(f"{stage}: {given} in, {out} out, {dropped} dropped")
        if manifest.quarantined:
            lines.append(f"{stage}: {len(manifest.quarantined)} units quarantined")
    for stage, taken, given in _handovers(run):
        if taken != given and not found[stage].quarantined:
            lines.append(f"{stage}: took in {taken} of {given}")
    return lines


def _handovers(run: Results) -> Iterator[tuple[str, int, int]]:
    """Yield (stage, items it took in, items it was given) for the finished stages that say whose items they take."""
    for stage, found in run.manifests.items():
        given = found.given(run.manifests)
        if given is not None:
            yield stage, found.total("items_in"), given


def _same_answers(run: Results, baseline: Results | None) -> Milestone:
    name, predicted = "same output as the baseline", "every stage"
    if baseline is None:
        note = (
            "is the baseline"
            if run.config["pipeline"]["name"] == "baseline"
            else "no baseline; make one of the same corpus, rag-hpc run pipeline=baseline, or name one: --baseline RUN"
        )
        return unjudged(name, predicted, note)
    rows = verify.compare(baseline, run)
    judged = [row for row in rows if row.verdict in (verify.SAME, verify.DIFFERS)]
    same = sum(row.verdict == verify.SAME for row in judged)
    differing = [row.stage for row in rows if row.verdict == verify.DIFFERS]
    waiting = [row.stage for row in rows if row.unfinished]
    verdict = MISSED if differing else NOT_JUDGED if waiting or not judged else HIT
    note = f"differs: {', '.join(differing)}" if differing else f"unfinished: {', '.join(waiting)}" if waiting else ""
    return Milestone(
        name=name,
        predicted=predicted,
        result=f"{same} of {len(judged)} same",
        verdict=verdict,
        note=note,
        value=same,
        bound=len(judged),
    )


def _same_curves(run: Results, baseline: Results | None) -> Iterator[Milestone]:
    """Yield, for each training, whether its ranks together learnt what the baseline's did: training's same answers."""
    for stage in (stage for stage in curves.STAGES if stage in run.stages):
        name, predicted = f"same curve as the baseline, {stage}", f"every step, within {curves.TOLERANCE:g}"
        found = None if baseline is None else curves.compare_curves(run, baseline, stage)
        if found is None or found.unlike:
            yield unjudged(name, predicted, found.unlike if found else "no baseline; name one: --baseline RUN")
            continue
        yield Milestone(
            name=name,
            predicted=predicted,
            result=f"{found.num_same} of {found.num_steps} steps",
            verdict=HIT if found.num_same == found.num_steps else MISSED,
            note=f"p={found.ranks[0]} beside p={found.ranks[1]}; largest difference {found.largest:.1e}",
            value=found.num_same,
            bound=found.num_steps,
        )


def _counts(run: Results) -> Milestone:
    lines = lost_items(run)
    checks = len(run.manifests) + len(list(_handovers(run)))
    if not run.manifests:
        return unjudged("counts add up", "in = out + dropped", "no stage is finished")
    return Milestone(
        name="counts add up",
        predicted="in = out + dropped",
        result=f"{len(lines)} wrong" if lines else f"{checks} checks",
        verdict=MISSED if lines else HIT,
        note="; ".join(lines),
        value=len(lines),
        bound=0,
    )


def _quality(run: Results, predicted: dict[str, Any]) -> Iterator[Milestone]:
    recall = quality.ann_recall(run)
    judged = at_least(
        f"vector index, {recall[0] if recall else 'recall@10'}",
        recall[1] if recall else None,
        predicted.get("min_recall_at_10"),
        lambda value: share(value, 4),
        "no vector index was judged",
    )
    yield dataclasses.replace(judged, note=judged.note or quality.ann_judged(run))
    yield at_least(
        "duplicates found",
        _duplicates(run),
        predicted.get("min_duplicates"),
        lambda n: f"{n:.0f}",
        "dedup is not finished",
    )
    yield _ranking(run, predicted.get("min_ndcg_at_10"))
    answers = quality.metrics(run).get("answers", {})
    bound = predicted.get("min_answer_f1")
    yield at_least("answer F1, all questions", answers.get("f1"), bound, share, "no gold answers were judged")
    held_out = quality.answer_f1(run, held_out=True)
    if held_out:
        yield at_least(f"answer F1, {held_out[1]} held-out questions", held_out[0], bound, share, "")
    cited = at_least("citation precision", answers.get("citation_precision"), None, share, "no citations were judged")
    yield dataclasses.replace(cited, note=cited.note or TITLES * quality.stand_ins(run))


def _ranking(run: Results, bound: float | None) -> Milestone:
    """Return the row of the ranking that was handed on, what the others scored beside it."""
    chosen, metrics = quality.handed_on(run), quality.metrics(run)
    scores = {method: metrics[method][NDCG] for method in quality.METHODS if NDCG in metrics.get(method, {})}
    value = scores.pop(chosen, None) if chosen else None
    name = f"{NDCG}, {chosen or 'ranking'} (handed on)"
    if quality.stand_ins(run):
        return unjudged(name, bound_text(bound, share), TITLES)
    row = at_least(name, value, bound, share, "no questions were judged")
    others = ", ".join(f"{method} {share(score)}" for method, score in scores.items())
    return dataclasses.replace(row, note=f"beside it {others}") if value is not None and others else row


def _duplicates(run: Results) -> int | None:
    if "dedup.drop" not in run.manifests:
        return None
    dropped = run.manifests["dedup.drop"].dropped()
    return sum(dropped.get(reason, 0) for reason in DUPLICATES)


def _speed(run: Results, baseline: Results | None, predicted: dict[str, Any]) -> Iterator[Milestone]:
    """Yield S and E of the stages whose efficiency may be predicted."""
    comparable = baseline is not None and same_documents(run, baseline) is not False
    found = {row.stage: row for row in speedups(run, baseline)} if baseline and comparable else {}
    for stage in TIMED:
        bound = predicted.get(f"min_efficiency_{stage}")
        row = found.get(stage)
        if row is None:
            if bound is not None and stage in run.stages:
                note = "needs a finished baseline and run" if comparable else OTHER_DOCUMENTS
                yield unjudged(f"E of {stage}", bound_text(bound, share), note)
            continue
        judged = at_least(f"E({row.run.p}) of {stage}", row.efficiency, bound, share, "")
        if row.shared:
            yield dataclasses.replace(judged, verdict=NOT_JUDGED, note=f"{SHARED}; {speed_note(row)}")
        else:
            yield dataclasses.replace(judged, note=speed_note(row))


def speed_note(row: Speedup) -> str:
    """Return the times behind a speed-up, with what is kept apart from them, and the contention of both runs."""
    queue = f"queue {duration(row.run.queue_s)}, " if row.run.queue_s is not None else ""
    return (
        f"S = {row.speedup:.2f} = {duration(row.baseline.wall_s)} / {duration(row.run.wall_s)}; beside it {queue}"
        f"setup {duration(row.run.per_worker['setup'])} a worker; CPU pressure {percent(row.baseline.pressure_cpu)} "
        f"and {percent(row.run.pressure_cpu)}"
    )


def _times(run: Results) -> Iterator[Milestone]:
    for row in stage_times(run):
        note = f"summed over {row.num_submissions} submissions" if row.num_submissions > 1 else ""
        yield Milestone(
            name=f"T({row.p}) of {row.stage}",
            predicted="–",
            result=duration(row.wall_s),
            verdict=NOT_JUDGED,
            note=note,
            value=row.wall_s,
        )
