"""Costs as milestones: what 1,000 documents, a query and a correct answer cost, against what was predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rag_hpc.eval.cost import Prices, RunCost, of_records
from rag_hpc.eval.results import Results, same_documents
from rag_hpc.eval.verdicts import Milestone, at_most

ROWS = (
    ("per_1000_documents", "cost of 1,000 documents", "no documents were counted"),
    ("per_query", "cost of a query", "nothing was asked"),
    ("per_correct_answer", "cost of a correct answer", "no answer is correct, or none was judged"),
)


def rows(
    run: Results, baseline: Results | None, predicted: dict[str, Any], prices: Prices | None
) -> Iterator[Milestone]:
    """Yield the costs, the baseline's beside them; only those that are predicted where no prices are given."""
    mine = of_records(run, prices) if prices else None
    comparable = baseline is not None and same_documents(run, baseline) is not False
    theirs = of_records(baseline, prices) if prices and baseline and comparable else None
    for key, name, absent in ROWS:
        bound = predicted.get(f"max_cost_{key}")
        if prices is None and bound is None:
            continue
        currency = prices.currency if prices else ""
        row = at_most(
            name,
            getattr(mine, key) if mine else None,
            bound,
            lambda value, unit=currency: f"{value:.3g} {unit}".strip(),  # type: ignore[misc]
            absent if prices else "no prices here; give them: rag-hpc milestones cost=NAME",
        )
        yield dataclasses.replace(row, note=row.note or _note(key, mine, theirs, prices))
    most = predicted.get("max_cost_ratio")
    if most is not None or theirs:
        ratio = mine.total / theirs.total if mine and theirs and theirs.total else None
        absent = "needs prices, and a baseline of the same documents"
        yield at_most("cost in all, of the baseline's", ratio, most, lambda value: f"{value:.2f}", absent)


def _note(key: str, mine: RunCost | None, theirs: RunCost | None, prices: Prices | None) -> str:
    """Return whose prices they are, the baseline's cost, and which stage most of it goes to."""
    if mine is None or prices is None:
        return ""
    parts = [f"prices {prices.name}"]
    other = getattr(theirs, key) if theirs else None
    if other:
        parts.append(f"the baseline's {other:.3g}")
    top = max(mine.stages, key=lambda row: row.cost, default=None)
    if top and mine.total:
        parts.append(f"most of all: {top.stage}, {100 * top.cost / mine.total:.0f} %")
    return "; ".join(parts)
