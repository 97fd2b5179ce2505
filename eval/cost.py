"""`rag-hpc cost RUN`: what each stage used and what that costs, per 1,000 documents, per query, per correct answer.

Prices stand in conf/cost/NAME.yaml, and are the user's own. A search is priced by what retrieve, rerank and generate
used; a document by what the stages before them did. Evaluation and training stand in the table alone.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, group_values
from rag_hpc.core.ledger import run_handle
from rag_hpc.core.log import folded
from rag_hpc.errors import ClusterError, ConfigError, MissingDependency
from rag_hpc.eval import quality
from rag_hpc.eval.results import Results, by_stage, choose_baseline, chosen_run, read_counts, same_documents
from rag_hpc.eval.tables import as_csv
from rag_hpc.eval.text import aligned, count, duration
from rag_hpc.eval.usage import OF_SACCT, Usage, Watts, together, used
from rag_hpc.schema import from_plain

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

ASKING = ("retrieve", "rerank", "generate")
APART = ("evaluate", "train")
HEADER = ("stage", "p", "cores", "GPUs", "nodes", "energy", "from", "cost", "share", "baseline's")
KWH_J = 3.6e6


@dataclass(kw_only=True)
class Prices:
    """Settings of conf/cost/NAME.yaml. Prices are per hour, or kWh, in `currency`."""

    name: str = "example"
    source: str = ""
    currency: str = "EUR"
    core_hour: float = 0.0
    gpu_hour: float = 0.0
    node_hour: float = 0.0
    kwh: float = 0.0
    core_watts: float = 0.0
    gpu_watts: float = 0.0
    pue: float = 1.0
    correct_f1: float = 0.5

    def __post_init__(self) -> None:
        for key in ("core_hour", "gpu_hour", "node_hour", "kwh", "core_watts", "gpu_watts"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"cost.{key}={getattr(self, key)}: a number of at least 0 is needed; 0 leaves it out")
        if not 1 <= self.pue < 10:
            raise ConfigError(f"cost.pue={self.pue}: from 1 (nothing but the machines) to 10; sites tell theirs")
        if not 0 < self.correct_f1 <= 1:
            raise ConfigError(f"cost.correct_f1={self.correct_f1}: above 0, up to 1; try 0.5")
        if not self.source.strip():
            raise ConfigError(f"cost={self.name}: say where its prices are from: cost.source='the site, 2026'")

    def of(self, usage: Usage) -> float:
        """Return what the usage costs."""
        hours = usage.core_s * self.core_hour + usage.gpu_s * self.gpu_hour + usage.node_s * self.node_hour
        return hours / 3600 + (usage.energy_j or 0.0) * self.pue * self.kwh / KWH_J


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage used and costs."""

    stage: str
    p: int
    usage: Usage
    cost: float


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What a run costs, in all and for one of each; None where there is nothing to divide by."""

    run: str
    stages: list[StageCost]
    total: float
    num_documents: int | None
    num_queries: int | None
    num_judged: int  # answers with a gold one
    num_correct: int  # of them
    per_1000_documents: float | None
    per_query: float | None
    per_correct_answer: float | None
    notes: list[str]


def cost(arguments: Arguments) -> int:
    """Print the costs of a run beside its baseline's; exit 3 when it is unfinished, and so are the sums."""
    if {"--json", "--csv"} <= arguments.flags:
        raise ConfigError("--json and --csv: one of them at a time")
    prices = from_plain(Prices, group_values(arguments, "cost", "example"))
    run = chosen_run(arguments)
    baseline = choose_baseline(arguments, run)
    other = priced(baseline, prices) if baseline and same_documents(run, baseline) is not False else None
    mine = priced(run, prices)
    if "--json" in arguments.flags:
        told = {"run": dataclasses.asdict(mine), "baseline": dataclasses.asdict(other) if other else None}
        print(as_json({"prices": dataclasses.asdict(prices), "unfinished": run.unfinished, **told}))
    elif "--csv" in arguments.flags:
        print(as_csv(rows_of(mine.run, mine.stages, prices)).decode("utf-8"), end="")
    else:
        print(as_text(mine, other, prices))
        if baseline is None:
            print("no baseline beside the run; name one: --baseline RUN")
        elif other is None:
            print(f"{baseline.name} read other documents or questions, so its costs do not stand beside these")
        if run.unfinished:
            print(f"unfinished: {', '.join(run.unfinished)}; go on: rag-hpc retry run={run_handle(run.run_dir)}")
    return 3 if run.unfinished else 0


def of_records(run: Results, prices: Prices) -> RunCost:
    """Return what a run costs as far as it is, by its records alone: no scheduler is asked."""
    return _priced(run, prices, {}, [])


def priced(run: Results, prices: Prices) -> RunCost:
    """Return what a run costs as far as it is."""
    return _priced(run, prices, *accounting(run, _records(run)))


def _records(run: Results) -> dict[str, list[dict[str, Any]]]:
    return {step: found for step in run.stages if (found := run.records(step))}


def _priced(run: Results, prices: Prices, taken: Mapping[str, Any], notes: list[str]) -> RunCost:
    records = _records(run)
    stages = stage_costs(records, prices, taken)
    if least := [row.stage for row in stages if row.usage.at_least]:
        notes.append(f"at least, since rank 0 alone keeps records and accounting does not tell: {', '.join(least)}")
    judged = [line["f1"] for line in quality.answer_lines(run) if line["f1"] is not None]
    return summed(run.name, stages, prices, read_counts(run), judged, notes)


def summed(
    name: str,
    stages: list[StageCost],
    prices: Prices,
    counts: Mapping[str, int],
    judged: Sequence[float],
    notes: list[str],
) -> RunCost:
    """Return the costs of a run's stages in all and for one of each; judged: F1 of the answers with a gold one."""
    asking = sum(row.cost for row in stages if row.stage in ASKING)
    building = sum(row.cost for row in stages if row.stage not in (*ASKING, *APART))
    documents, queries = counts.get("documents"), counts.get("queries")
    correct = sum(f1 >= prices.correct_f1 for f1 in judged)
    per_query = asking / queries if queries else None
    return RunCost(
        run=name,
        stages=stages,
        total=sum(row.cost for row in stages),
        num_documents=documents or None,
        num_queries=queries or None,
        num_judged=len(judged),
        num_correct=correct,
        per_1000_documents=1000 * building / documents if documents else None,
        per_query=per_query,
        per_correct_answer=per_query * len(judged) / correct if per_query is not None and correct else None,
        notes=notes,
    )


def stage_costs(
    records: Mapping[str, Sequence[dict[str, Any]]], prices: Prices, taken: Mapping[str, Any]
) -> list[StageCost]:
    """Return what the stages of some steps' records cost, each step having at least one; taken: see `usage.used`."""
    watts = Watts(core=prices.core_watts, gpu=prices.gpu_watts)
    steps = {step: used(rows, watts, taken) for step, rows in records.items()}
    return [
        StageCost(
            stage=stage,
            p=max(record["p"] for name in names for record in records[name]),
            usage=(usage := together([steps[name] for name in names])),
            cost=prices.of(usage),
        )
        for stage, names in by_stage(list(steps)).items()
    ]


def accounting(run: Results, records: Mapping[str, Sequence[dict[str, Any]]]) -> tuple[dict[str, Any], list[str]]:
    """Return what accounting tells of the run's jobs, and a note where it was to be asked and does not tell."""
    ids = {record["job_id"] for found in records.values() for record in found if record["job_id"]}
    if not ids:
        return {}, []
    from rag_hpc.slurm.client import connect

    cluster = run.submission["cluster"]
    try:
        taken = connect(cluster.get("name", ""), cluster.get("slurm_conf")).taken(sorted(ids))
    except (ClusterError, MissingDependency) as error:
        return {}, [f"from records alone, accounting does not answer: {error}"]
    return taken, [] if taken else ["from records alone: there is no sacct here, or it has forgotten the jobs"]


def as_text(mine: RunCost, other: RunCost | None, prices: Prices) -> str:
    """Return the table for people, and what one of each costs."""
    theirs = {row.stage: row.cost for row in other.stages} if other else {}
    rows = [_cells(row, mine.total, theirs.get(row.stage), prices) for row in mine.stages]
    lines = [
        f"run       {mine.run}",
        f"baseline  {other.run if other else '–'}",
        folded(f"prices    {prices.name}: {prices.source}", sys.stdout),
    ]
    lines += ["", aligned(HEADER, rows, keys=2), ""]
    told = (
        ("in all", "total", ""),
        ("per 1,000 documents", "per_1000_documents", f"of {count(mine.num_documents)} documents, without asking"),
        ("per query", "per_query", f"of {count(mine.num_queries)} queries, with their answers"),
        (
            "per correct answer",
            "per_correct_answer",
            f"{mine.num_correct} of {mine.num_judged} judged are correct",
        ),
    )
    ones = [
        (name, _money(getattr(mine, key), prices), _against(getattr(mine, key), getattr(other, key, None)), note)
        for name, key, note in told
    ]
    notes = [folded(note, sys.stdout) for note in mine.notes]
    return "\n".join([*lines, aligned(("cost", prices.currency, "baseline's", ""), ones), *notes])


def rows_of(run: str, stages: Sequence[StageCost], prices: Prices) -> list[dict[str, Any]]:
    """Return a row a stage for other programs."""
    money = {"currency": prices.currency, "prices": prices.name}
    return [
        {"run": run, "stage": row.stage, "p": row.p, **dataclasses.asdict(row.usage), "cost": row.cost, **money}
        for row in stages
    ]


def _cells(row: StageCost, total: float, theirs: float | None, prices: Prices) -> tuple[str, ...]:
    usage = row.usage
    energy = "–" if usage.energy_j is None else f"{usage.energy_j / KWH_J:.3g} kWh"
    least = "≥ " if usage.at_least else ""
    return (
        row.stage,
        str(row.p),
        f"{least}{duration(usage.core_s)}",
        duration(usage.gpu_s) if usage.gpu_s else "–",
        f"{least}{duration(usage.node_s)}",
        f"{energy} {usage.energy_from}" if usage.energy_j is not None else energy,
        OF_SACCT if usage.source == OF_SACCT else "records",
        _money(row.cost, prices),
        f"{100 * row.cost / total:.0f} %" if total else "–",
        _against(row.cost, theirs),
    )


def _money(value: float | None, prices: Prices) -> str:
    return "–" if value is None else f"{value:.3g} {prices.currency}"


def _against(value: float | None, theirs: float | None) -> str:
    """Return how many times the baseline's it is."""
    return "–" if value is None or not theirs else f"{value / theirs:.2f}×"
