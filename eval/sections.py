"""The sections of a run's report, each as HTML, or None where the run has nothing to say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rag_hpc.eval import plots, quality, verify
from rag_hpc.eval.markup import Cell, Markup, cite_links, figure, link, mark, safe, table, tag
from rag_hpc.eval.milestones import Milestone, summary
from rag_hpc.eval.results import Results
from rag_hpc.eval.scaling import PARTS, Speedup, StageTime
from rag_hpc.eval.text import amount, count, duration, percent, share

NUM_SAMPLES = 5
BLANK_LINES = re.compile(r"\n\s*\n")
LABELS = {
    "bm25": "bm25",
    "dense": "dense (exact search)",
    "fused": "fused (BM25 and dense)",
    "reranked": "reranked",
    "ann": "ann (dense, vector index)",
}
TIME_SERIES = (("queue", 5), ("set-up", 1), ("work", 0), ("flush", 3))  # as scaling.PARTS, with their colours
ANSWER_LABELS = {
    "f1": "token F1 of the short answer",
    "em": "exact match of the short answer",
    "f1_sentence": "token F1 of the whole answer",
    "citation_precision": "citation precision",
    "answered": "questions answered",
}


def milestone_table(rows: Sequence[Milestone]) -> Markup:
    """Return predictions against results; times stand in a table of their own."""
    shown = [row for row in rows if not row.name.startswith("T(")]
    cells: list[list[Cell]] = [[r.name, r.predicted, r.result, mark(r.verdict), r.note] for r in shown]
    lead = tag("p", f"Predictions were written into the configuration before the run. {summary(shown)}.", css="note")
    return Markup(lead + table(("milestone", "predicted", "result", "verdict", "note"), cells, wide=(4,)))


def speedup_table(rows: Sequence[Speedup], baseline: Results) -> Markup | None:
    """Return S and E of every stage that both runs have."""
    if not rows:
        return None
    cells: list[list[Cell]] = [
        [
            r.stage,
            duration(r.baseline.wall_s),
            duration(r.run.wall_s),
            str(r.run.p),
            f"{r.speedup:.2f}",
            f"{r.efficiency:.2f}",
            duration(r.run.queue_s),
            duration(r.run.per_worker["setup"]),
            percent(r.baseline.pressure_cpu),
            percent(r.run.pressure_cpu),
        ]
        for r in rows
    ]
    lead = tag(
        "p",
        f"Against {baseline.name}, the single-machine baseline. T runs from a stage's first unit to its last "
        "commit; queue and set-up (means of a worker) are beside it, not inside. CPU pressure is the share of time "
        "in which some task waited for a processor: above a few percent, the machine was not the run's alone.",
        css="note",
    )
    header = (
        "stage",
        "T baseline",
        "T run",
        "p",
        "S = T/T",
        "E = S/p",
        "queue",
        "set-up",
        "pressure baseline",
        "pressure run",
    )
    return Markup(lead + table(header, cells, numeric=range(1, 10)))


def pipeline_table(steps: Sequence[StageTime], results: Results) -> Markup:
    """Return one row a step: what went in and out, what was dropped and why, time and place."""
    cells: list[list[Cell]] = []
    for r in steps:
        planned = len(results.plans[r.stage].units)
        units = count(planned) if r.num_units == planned else f"{count(r.num_units)} of {count(planned)}"
        dropped = ", ".join(f"{reason} {count(num)}" for reason, num in r.dropped.items()) or "–"
        rate = f"{r.rate:.3g}/s" if r.rate is not None and r.rate < 1000 else f"{count(r.rate)}/s"
        hosts = r.hosts[0] if len(r.hosts) == 1 else f"{len(r.hosts)} hosts"
        cells.append(
            [
                r.stage,
                units,
                count(r.items_in),
                count(r.items_out),
                dropped,
                duration(r.wall_s),
                rate,
                str(r.p),
                hosts,
                ", ".join(r.launches),
            ]
        )
    return table(
        ("stage", "units", "in", "out", "dropped", "T", "rate", "p", "hosts", "launch"),
        cells,
        numeric=(1, 2, 3, 5, 6, 7),
        wide=(4,),
    )


def time_plot(stages: Sequence[StageTime]) -> Markup:
    """Return the stacked bars of where a worker's time goes."""
    rows = [(r.stage, [r.per_worker[part] for part in PARTS]) for r in stages]
    return figure(
        plots.stacked_bars(rows, TIME_SERIES, "seconds of a worker (mean)"),
        "Mean seconds of a worker in each stage: waiting in the queue, setting up (imports, models, indexes), "
        "working, and flushing files to stable storage before the commit.",
    )


def quality_table(results: Results) -> Markup | None:
    """Return the measures of every ranking method; the best of each is bold."""
    found = {method: values for method, values in quality.metrics(results).items() if method in LABELS and values}
    names = quality.measure_names(results, found)
    if not names:
        return None
    best = {name: max(values.get(name, 0.0) for values in found.values()) for name in names}

    def cell(values: dict[str, float], name: str) -> Cell:
        text = f"{values[name]:.4f}" if name in values else "–"
        return tag("span", text, css="best") if values.get(name) == best[name] else text

    rows = [[LABELS[m], *[cell(found[m], name) for name in names]] for m in quality.METHODS if m in found]
    judged = sum(1 for q in quality.questions(results) if json.loads(q["relevant"]))
    lead = tag(
        "p",
        f"Means over {count(judged)} judged questions, by document, under ir_measures' names. "
        "The best of a column is bold.",
        css="note",
    )
    return Markup(lead + table(("method", *names), rows, numeric=range(1, len(names) + 1)))


def recall_plots(results: Results) -> Markup | None:
    """Return recall over k, of relevant documents and, with a vector index, of the exact search's passages."""
    curves, ann = quality.recall_curves(results), quality.ann_curve(results)
    drawn = []
    if curves:
        drawn.append(
            figure(
                plots.line_chart(curves, x_label="k, documents", y_label="recall@k", y_range=(0.0, 1.0)),
                "Share of the relevant documents among the k best, mean over the judged questions.",
            )
        )
    if ann:
        low = min(value for _, value in ann)
        drawn.append(
            figure(
                plots.line_chart(
                    {"ann": ann}, x_label="k, passages", y_label="share found", y_range=(min(low, 0.95), 1.0)
                ),
                "Share of exact search's k best passages that the vector index finds. The axis does not start at 0.",
            )
        )
    return tag("div", *drawn, css="pair") if drawn else None


def answer_table(results: Results) -> Markup | None:
    """Return the measures of the answers, with the held-out questions apart from the others."""
    found = quality.metrics(results).get("answers")
    if not found:
        return None
    rows = [[label, share(found[key])] for key, label in ANSWER_LABELS.items() if key in found]
    for held_out, label in ((False, "questions used in development"), (True, "held-out questions")):
        f1 = quality.answer_f1(results, held_out=held_out)
        if f1:
            rows.append([f"token F1 of the short answer, {f1[1]} {label}", share(f1[0])])
    return table(("measure", "mean"), rows, numeric=(1,), css="narrow")


def samples(results: Results) -> Markup | None:
    """Return a few questions with their answers and the passages that these cite."""
    found = quality.samples(results, NUM_SAMPLES)
    lead = tag(
        "p",
        "Evenly spaced over the list of questions, not picked. A citation is verified when the passage it "
        "names holds most words of the sentence that cites it, and what it quotes word for word.",
        css="note",
    )
    return Markup(lead + "".join(_sample(number, sample) for number, sample in enumerate(found, 1))) if found else None


def identity_table(baseline: Results, run: Results) -> Markup:
    """Return the comparison of outputs, stage by stage."""
    rows = verify.compare(baseline, run)
    cells: list[list[Cell]] = [[r.stage, _hash(r.a), _hash(r.b), mark(r.verdict)] for r in rows]
    notes = "".join(tag("p", line, css="note code") for line in verify.explain(baseline, run, rows))
    lead = tag(
        "p",
        f"Hashes of what each stage wrote. {verify.summary(rows)}. Where the layout is a choice (how many "
        "shards), what it answers is compared at retrieve and evaluate.",
        css="note",
    )
    return Markup(lead + table(("stage", baseline.name, run.name, "verdict"), cells) + notes)


def records_table(stages: Sequence[StageTime]) -> Markup:
    """Return what the stages used: workers, hosts, processor time, memory, bytes and contention."""
    cells: list[list[Cell]] = [
        [
            r.stage,
            str(r.p),
            str(r.num_workers),
            str(len(r.hosts)),
            duration(r.work_s),
            duration(r.cpu_s),
            amount(r.peak_rss_bytes),
            amount(r.bytes_read),
            amount(r.bytes_written),
            percent(r.pressure_cpu),
        ]
        for r in stages
    ]
    hosts = sorted({host for r in stages for host in r.hosts})
    lead = tag(
        "p",
        f"From the record of every committed unit. Hosts: {', '.join(hosts)}. Work and processor time are sums "
        "over units; of collective stages only rank 0 writes records.",
        css="note",
    )
    header = ("stage", "p", "workers", "hosts", "work", "processor", "peak memory", "read", "written", "CPU pressure")
    return Markup(lead + table(header, cells, numeric=range(1, 10)))


def provenance(results: Results) -> Markup:
    """Return what names the outputs (fingerprints, hashes, code versions) and the settings of each stage."""
    cells: list[list[Cell]] = []
    for stage, plan in results.plans.items():
        finished = results.manifests.get(stage)
        cells.append(
            [
                stage,
                str(plan.version),
                _hash(plan.fingerprint),
                _hash(finished.output_hash if finished else None),
                mark("finished" if finished else "unfinished"),
            ]
        )
    settings = json.dumps(results.submission["settings"], indent=2, sort_keys=True, ensure_ascii=False)
    lead = tag(
        "p",
        "A fingerprint names a stage's settings, inputs and code version; an output hash names its bytes.",
        css="note",
    )
    return Markup(
        lead
        + table(("stage", "version", "fingerprint", "output", "state"), cells, numeric=(1,))
        + tag("details", tag("summary", "Settings of all stages"), tag("pre", settings, css="code"))
    )


def _sample(number: int, sample: quality.Sample) -> Markup:
    anchors = {cited.number: f"q{number}-{cited.number}" for cited in sample.cited}
    facts = [
        f"answer F1 {share(sample.f1, 2)}" if sample.f1 is not None else "",
        "held out" if sample.held_out else "",
        f"expected: {' | '.join(sample.gold)}" if sample.gold else "",
    ]
    answer = (
        cite_links(sample.answer, anchors) if sample.found else Markup(tag("em", sample.answer or "no answer found"))
    )
    return tag(
        "article",
        tag("h3", sample.question),
        tag("p", answer, css="answer"),
        tag("p", " · ".join([sample.query_id, *[fact for fact in facts if fact]]), css="note"),
        *[_passage(anchors[cited.number], cited) for cited in sample.cited],
        css="qa",
    )


def _passage(anchor: str, cited: quality.Cited) -> Markup:
    title = cited.title or cited.url or "a passage that the answer was not given"
    marks = mark("verified" if cited.supported else "not verified") + (
        " " + mark("relevant document") if cited.relevant else ""
    )
    head = f"[{cited.number}] {link(cited.url, title)} {marks}"
    quoted = tag("blockquote", BLANK_LINES.sub("\n", cited.text.strip())) if cited.text else ""
    return Markup(f'<div class="passage" id="{safe(anchor)}">{head}{quoted}</div>')


def _hash(digest: str | None) -> Markup:
    return tag("code", verify.short(digest))
