"""`rag-hpc report RUN`: one self-contained report.html; it loads nothing and runs no script."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from rag_hpc import __version__
from rag_hpc.core.fs import publish_file
from rag_hpc.errors import InputError
from rag_hpc.eval import quality, sections
from rag_hpc.eval.markup import Markup, safe, section, tag
from rag_hpc.eval.milestones import HIT, MISSED, judge
from rag_hpc.eval.results import Results, choose_baseline, chosen_run
from rag_hpc.eval.scaling import Speedup, speedups, stage_times, step_times
from rag_hpc.eval.text import as_json, count, day, share

if TYPE_CHECKING:
    from rag_hpc.cli import Arguments

REPORT = "report.html"
TEMPLATE = "report_template.html"


def report(arguments: Arguments) -> int:
    """Write the report into the run's folder, or to `--out FILE`, and print its path."""
    run = chosen_run(arguments)
    out = Path(arguments.values.get("--out") or run.run_dir / REPORT)
    page = render(run, choose_baseline(arguments, run))
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}; make it first")
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name the file to write, as {out / REPORT}")
    publish_file(out, page.encode("utf-8"), overwrite=True)
    print(as_json({"run": run.name, "report": str(out.resolve())}) if "--json" in arguments.flags else f"wrote {out}")
    return 0


def render(run: Results, baseline: Results | None) -> str:
    """Return the page; the same results give the same text."""
    faster = speedups(run, baseline) if baseline else []
    parts = _sections(run, baseline, faster)
    template = importlib.resources.files("rag_hpc.eval").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return Template(template).substitute(
        title=safe(f"{run.name} – rag-hpc report"),
        heading=safe(f"Run {run.name}"),
        subtitle=safe(_subtitle(run)),
        notices=_notices(run),
        tiles=_tiles(run, baseline, faster),
        sections="\n".join(html for _, _, html in parts),
        contents="".join(f'<a href="#{anchor}">{safe(title)}</a>' for anchor, title, _ in parts),
        footer=safe(
            f"rag-hpc {__version__}. Regenerate: rag-hpc report {run.name}"
            + (f" --baseline {baseline.name}" if baseline else "")
        ),
    )


def _sections(run: Results, baseline: Results | None, faster: list[Speedup]) -> list[tuple[str, str, Markup]]:
    """Return (anchor, title, HTML) of the sections that have something to show."""
    steps, stages = step_times(run), stage_times(run)
    bodies: list[tuple[str, str, list[Markup | None]]] = [
        ("milestones", "Milestones", [sections.milestone_table(judge(run, baseline))]),
        ("speed-up", "Speed-up", [sections.speedup_table(faster, baseline) if baseline else None]),
        ("pipeline", "Pipeline", [sections.pipeline_table(steps, run) if steps else None]),
        ("time", "Time per stage", [sections.time_plot(stages) if stages else None]),
        ("retrieval", "Retrieval quality", [sections.quality_table(run), sections.recall_plots(run)]),
        ("answers", "Answers", [sections.answer_table(run), sections.samples(run)]),
        ("identity", "Same output as the baseline?", [sections.identity_table(baseline, run) if baseline else None]),
        ("resources", "Resources", [sections.records_table(stages) if stages else None]),
        ("provenance", "Provenance", [sections.provenance(run)]),
    ]
    return [
        (anchor, title, section(anchor, title, *[piece for piece in body if piece]))
        for anchor, title, body in bodies
        if any(body)
    ]


def _subtitle(run: Results) -> str:
    records = [record for stage in run.plans for record in run.records(stage)]
    first = min((record["started_unix"] for record in records), default=None)
    asked = run.submission
    return " · ".join(
        [
            f"corpus {run.config['corpus']['name']}",
            f"pipeline {run.config['pipeline']['name']}",
            f"cluster {asked['cluster'].get('name', 'local')}",
            f"workers asked for: {asked['workers']}",
            f"begun {day(first)}",
        ]
    )


def _notices(run: Results) -> str:
    if not run.unfinished:
        return ""
    return tag(
        "p",
        f"This run is unfinished; still open: {', '.join(run.unfinished)}. Go on: rag-hpc retry run={run.name}",
        css="warn",
    )


def _tiles(run: Results, baseline: Results | None, faster: list[Speedup]) -> str:
    """Return the key figures, leaving out those that the run does not have."""
    found, metrics, recall = run.manifests, quality.metrics(run), quality.ann_recall(run)
    judged = [row for row in judge(run, baseline) if row.verdict in (HIT, MISSED)]
    hits = sum(row.verdict == HIT for row in judged)
    tiles = [(f"{hits} of {len(judged)}", "milestones hit")] if judged else []
    if "dedup.drop" in found:
        tiles.append((count(found["dedup.drop"].total("items_out")), "documents"))
    if "chunk" in found:
        tiles.append((count(found["chunk"].extra().get("chunks")), "passages"))
    ranked = next((method for method in ("reranked", "fused") if metrics.get(method)), None)
    if ranked and "nDCG@10" in metrics[ranked]:
        tiles.append((share(metrics[ranked]["nDCG@10"]), f"nDCG@10, {ranked}"))
    if "f1" in metrics.get("answers", {}):
        tiles.append((share(metrics["answers"]["f1"]), "answer F1"))
    if recall:
        tiles.append((share(recall[1], 4), f"{recall[0]} of the vector index"))
    tiles += [
        (f"{row.speedup:.2f}×", f"{row.stage}, p = {row.run.p}") for row in faster if row.stage in ("crawl", "encode")
    ]
    return "".join(tag("div", tag("b", value), tag("span", label), css="tile") for value, label in tiles)
