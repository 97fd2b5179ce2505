"""What the templates show of a run and cannot look up themselves: tables' texts, plots, and links."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup, escape

from rag_hpc.eval import quality, verify
from rag_hpc.eval.milestones import summary
from rag_hpc.eval.report import plots
from rag_hpc.eval.results import Results
from rag_hpc.eval.text import share
from rag_hpc.eval.times import PARTS, StageTime
from rag_hpc.eval.verdicts import Milestone
from rag_hpc.stores.questions import FOUND_AGAIN

NUM_SAMPLES = 5
CITATION = re.compile(r"\[\d+(?:\s*[,;]\s*\d+)*\]")
NUMBER = re.compile(r"\d+")
BLANK_LINES = re.compile(r"\n\s*\n")
LABELS = {
    "bm25": "bm25",
    "dense": "dense (exact search)",
    "fused": "fused (BM25 and dense)",
    "reranked": "reranked",
    "ann": "ann (dense, vector index)",
}
TIME_SERIES = (("queue", 5), ("set-up", 1), ("work", 0), ("flush", 3))  # as times.PARTS, with their colours
ANSWER_LABELS = {
    "f1": "token F1 of the short answer",
    "em": "exact match of the short answer",
    "f1_sentence": "token F1 of the whole answer",
    "citation_precision": "citation precision",
    "answered": "questions answered",
}


def milestones(rows: Sequence[Milestone]) -> dict[str, Any]:
    """Return predictions against results; times stand in a table of their own."""
    shown = [row for row in rows if not row.name.startswith("T(")]
    return {"milestone_rows": shown, "milestone_summary": summary(shown)}


def times(stages: Sequence[StageTime]) -> dict[str, Any]:
    """Return the stacked bars of where a worker's time goes, and the hosts."""
    rows = [(r.stage, [r.per_worker[part] for part in PARTS]) for r in stages]
    return {
        "time_plot": plots.stacked_bars(rows, TIME_SERIES, "seconds of a worker (mean)") if rows else "",
        "hosts": sorted({host for r in stages for host in r.hosts}),
    }


def rankings(results: Results) -> dict[str, Any]:
    """Return the measures of every ranking: whether it was handed on, and of each figure if it is its column's best."""
    chosen, found = quality.handed_on(results), results.manifests.get("retrieve.queries")
    means = {method: values for method, values in quality.metrics(results).items() if method in LABELS and values}
    names, titles = quality.measure_names(results, means), quality.stand_ins(results)
    best = {name: max(values.get(name, 0.0) for values in means.values()) for name in names}

    def cell(values: dict[str, float], name: str) -> tuple[str, bool]:
        return f"{values[name]:.4f}" if name in values else "–", values.get(name) == best[name] and not titles

    return {
        "caveats": quality.caveats(results),
        "measures": names,
        "rankings": [
            (LABELS[m] + ", titles as queries" * titles, m == chosen, [cell(means[m], name) for name in names])
            for m in quality.METHODS
            if m in means
        ],
        "found_again": found.extra().get(FOUND_AGAIN) if found else None,
        "judged_queries": "titles that stand in for questions" if titles else "judged questions",
        "num_judged": sum(1 for q in quality.questions(results) if json.loads(q["relevant"])),
    }


def recall_plots(results: Results) -> dict[str, str]:
    """Return recall over k, of relevant documents and, with a vector index, of the exact search's passages."""
    curves, ann = quality.recall_curves(results), quality.ann_curve(results)
    recall_plot = ann_plot = ""
    if curves:
        recall_plot = plots.line_chart(curves, x_label="k, documents", y_label="recall@k", y_range=(0.0, 1.0))
    if ann:
        low = min(0.95, *(value for _, value in ann))
        ann_plot = plots.line_chart({"ann": ann}, x_label="k, passages", y_label="share found", y_range=(low, 1.0))
    return {"recall_plot": recall_plot, "ann_plot": ann_plot}


def answers(results: Results) -> dict[str, Any]:
    """Return the measures of the answers, with the held-out questions apart from the others, and a few answers."""
    means = quality.metrics(results).get("answers") or {}
    titles = quality.stand_ins(results)
    rows = [
        (label + ", titles as queries" * titles, share(means[key]))
        for key, label in ANSWER_LABELS.items()
        if key in means
    ]
    held_out = quality.answer_f1(results, held_out=True) if means else None
    for f1, label in (
        (held_out, "held-out questions"),
        (quality.answer_f1(results, held_out=False) if held_out else None, "other questions"),
    ):
        if f1:
            rows.append((f"token F1 of the short answer, {f1[1]} {label}", share(f1[0])))
    sampled = "titles, which stand in for questions, were" if titles else "questions,"
    samples = quality.samples(results, NUM_SAMPLES)
    return {"answer_rows": rows, "samples": samples, "sampled": sampled, "sample_seed": quality.SEED}


def identity(baseline: Results, run: Results) -> dict[str, Any]:
    """Return the comparison of outputs, stage by stage."""
    rows = verify.compare(baseline, run)
    return {
        "same_rows": rows,
        "same_summary": verify.summary(rows),
        "differences": list(verify.explain(baseline, run, rows)),
    }


def is_web(url: str) -> bool:
    """Return whether the address is one of the web's: "javascript:" never becomes a link, nor does a host that no
    network has (.internal, as the demo's)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    return parts.scheme.lower() in ("http", "https") and bool(host) and not host.endswith(".internal")


def cite_links(sample: quality.Sample, prefix: str) -> Markup:
    """Return the escaped answer with each number of [n] or [n, m] linked to its passage, `prefix` and n."""
    numbers = {str(cited.number) for cited in sample.cited}

    def linked(number: re.Match[str]) -> str:
        n = number.group()
        return f'<a href="#{prefix}{n}">{n}</a>' if n in numbers else n

    return Markup(CITATION.sub(lambda group: NUMBER.sub(linked, group.group()), str(escape(sample.answer))))


def quoted(cited: quality.Cited) -> Markup:
    """Return the escaped text of a passage without blank lines, what the answer quotes of it marked."""
    parts, at = [], 0
    for start, end in cited.quotes:
        start = max(start, at)
        parts += [escape(cited.text[at:start]), Markup("<mark>{}</mark>").format(cited.text[start : max(start, end)])]
        at = max(start, end)
    text = "".join([*parts, escape(cited.text[at:])])
    return Markup(BLANK_LINES.sub("\n", text.strip()))  # of escaped parts
