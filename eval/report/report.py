"""`rag-hpc report RUN`: one self-contained report.html; it loads nothing and runs no script."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rag_hpc import __version__
from rag_hpc.arguments import as_json, group_values, out_file
from rag_hpc.core.fs import publish_file
from rag_hpc.core.summary import in_and_out
from rag_hpc.eval import quality, verify
from rag_hpc.eval.cost import Prices, of_records
from rag_hpc.eval.milestones import NDCG, judge
from rag_hpc.eval.report import sections
from rag_hpc.eval.report.page import templates
from rag_hpc.eval.report.several import report_several, several
from rag_hpc.eval.results import Results, choose_baseline, chosen_run, same_documents
from rag_hpc.eval.text import count, day, share
from rag_hpc.eval.times import MAX_PRESSURE, Speedup, speedups, stage_times, step_times
from rag_hpc.eval.verdicts import HIT, MISSED, Milestone
from rag_hpc.schema import from_plain

if TYPE_CHECKING:
    import jinja2

    from rag_hpc.arguments import Arguments

REPORT = "report.html"
TEMPLATE = "report_template.html"


def report(arguments: Arguments) -> int:
    """Write the report into the run's folder, or to `--out FILE`, and print its path; several runs: see several.py."""
    prices = from_plain(Prices, group_values(arguments, "cost", "example"))
    if (told := several(arguments)) is not None:
        return report_several(told, arguments, prices)
    run = chosen_run(arguments)
    out = out_file(arguments) or run.run_dir / REPORT
    page = render(run, choose_baseline(arguments, run), prices)
    publish_file(out, page.encode("utf-8"), overwrite=True)
    print(as_json({"run": run.name, "report": str(out.resolve())}) if "--json" in arguments.flags else f"wrote {out}")
    return 0


def render(run: Results, baseline: Results | None, prices: Prices | None = None) -> str:
    """Return the page; the same results give the same text."""
    rows, stages = judge(run, baseline, prices), stage_times(run)
    faster = speedups(run, baseline) if baseline and same_documents(run, baseline) is not False else []
    return (
        _templates()
        .get_template(TEMPLATE)
        .render(
            run=run,
            baseline=baseline,
            version=__version__,
            subtitle=_subtitle(run),
            tiles=_tiles(run, rows, faster),
            faster=faster,
            max_pressure=MAX_PRESSURE,
            steps=step_times(run),
            in_and_out=in_and_out(run.manifests, run.plans),
            stages=stages,
            **sections.milestones(rows),
            **sections.times(stages),
            **sections.rankings(run),
            **sections.recall_plots(run),
            **sections.answers(run),
            **(sections.identity(baseline, run) if baseline else {}),
            cost=of_records(run, prices) if prices and stages else None,
            prices=prices,
            settings=json.dumps(run.submission["settings"], indent=2, sort_keys=True, ensure_ascii=False),
        )
    )


def _templates() -> jinja2.Environment:
    found = templates()
    found.filters |= {one.__name__: one for one in (verify.short, sections.cite_links, sections.quoted)}
    found.tests["web"] = sections.is_web
    return found


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


def _tiles(run: Results, rows: list[Milestone], faster: list[Speedup]) -> list[tuple[str, str]]:
    """Return the key figures with their names, leaving out those that the run does not have."""
    found, metrics, recall = run.manifests, quality.metrics(run), quality.ann_recall(run)
    judged = [row for row in rows if row.verdict in (HIT, MISSED)]
    hits = sum(row.verdict == HIT for row in judged)
    tiles = [(f"{hits} of {len(judged)}", "milestones hit")] if judged else []
    if "dedup.drop" in found:
        tiles.append((count(found["dedup.drop"].total("items_out")), "documents"))
    if "chunk" in found:
        tiles.append((count(found["chunk"].extra().get("chunks")), "passages"))
    ranked = quality.handed_on(run)
    if ranked and NDCG in metrics.get(ranked, {}) and not quality.stand_ins(run):
        tiles.append((share(metrics[ranked][NDCG]), f"{NDCG}, {ranked}"))
    if "f1" in metrics.get("answers", {}):
        tiles.append((share(metrics["answers"]["f1"]), "answer F1"))
    if recall:
        tiles.append((share(recall[1], 4), f"{recall[0]} of the vector index"))
    shown = [row for row in faster if row.stage in ("crawl", "encode") and not row.shared]
    return tiles + [(f"{row.speedup:.2f}×", f"{row.stage}, p = {row.run.p}") for row in shown]
