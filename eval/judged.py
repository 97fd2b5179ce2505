"""What a judge's scores say of a run's answers, and how far they can be relied on.

A score that could not be had is no number: means are over the others, and beside them stand those with all that are
undetermined taken for 0, and for 1. Agreement with people: accuracy, and Cohen's kappa (1960), which takes off what
chance would give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_hpc.algo.types import F64, I64
from rag_hpc.core.commit import UNITS, committed
from rag_hpc.core.ledger import run_handle
from rag_hpc.eval.results import Results
from rag_hpc.stores.judged import LABELLED, NOT_ASKED, SCORES

STAGE = "judge"
DRAWS, SEED = 2000, 0
GOOD = 0.5  # from this score on a sample counts as one that people would label 1
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of one metric. values: of the samples that have one."""

    metric: str
    values: dict[str, float]
    num_undetermined: int
    num_not_asked: int

    def all_at(self, value: float) -> list[float]:
        """Return the values, and this one for each that is undetermined."""
        return [*self.values.values(), *[value] * self.num_undetermined]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A judge beside people, on samples labelled 0 or 1, with 95 percent intervals. kappa: None where all are alike."""

    metric: str
    num: int
    num_undetermined: int
    accuracy: tuple[float, float, float]  # with its interval
    kappa: tuple[float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that is there of a run's judge."""

    model: str
    num_done: int  # units
    num_units: int
    scores: list[Scores]
    agreements: list[Agreement]

    def notes(self, run: Results) -> Iterator[str]:
        """Yield what must be known before a score is quoted, a line each."""
        if self.num_done < self.num_units:
            yield (
                f"{run.name}: the judge has finished {self.num_done} of {self.num_units} units, and the scores are of "
                f"those; go on: rag-hpc retry run={run_handle(run.run_dir)}"
            )
        for one in self.scores:
            if one.num_undetermined:
                yield (
                    f"{run.name}: {one.num_undetermined} of {len(one.values) + one.num_undetermined} scores of "
                    f"{one.metric} are undetermined"
                )
            if one.num_not_asked:
                yield f"{run.name}: {one.metric} not asked of {one.num_not_asked} samples, without answer or gold one"
        if self.scores and not self.agreements:
            yield f"{run.name}: nothing tells whether the judge is right; set stage.judge.labels to labelled samples"
        for agreement in self.agreements:
            if agreement.num_undetermined:
                total = agreement.num + agreement.num_undetermined
                yield f"{run.name}: {agreement.num_undetermined} of {total} labelled samples are undetermined"


def judgement(run: Results) -> Judgement | None:
    """Return what the judge said, of the units that are there; None where none has been asked for."""
    if STAGE not in run.stages or STAGE not in run.plans:
        return None
    plan = run.plans[STAGE]
    units = run.run_dir / plan.folder / UNITS
    names = [unit.name for unit in plan.units if unit.index in committed(units)]
    lines = [line for name in names for line in _read(units / name / SCORES)]
    labelled = [line for name in names for line in _read(units / name / LABELLED)]
    metrics = list(dict.fromkeys(metric for line in lines for metric in line["scores"]))
    judged = list(dict.fromkeys(metric for line in labelled for metric in line["labels"]))
    return Judgement(
        model=str(plan.config.get("model", "")),
        num_done=len(names),
        num_units=len(plan.units),
        scores=[scores_of(metric, lines) for metric in metrics],
        agreements=[found for metric in judged if (found := agreement(metric, labelled)) is not None],
    )


def scores_of(metric: str, lines: Sequence[Line]) -> Scores:
    """Return one metric's scores from the judge's lines."""
    asked = [line for line in lines if metric in line["scores"]]
    reasons = [line["reasons"].get(metric) for line in asked]
    not_asked = sum(reason in NOT_ASKED for reason in reasons)
    return Scores(
        metric=metric,
        values={line["query_id"]: v for line in asked if (v := line["scores"][metric]) is not None},
        num_undetermined=sum(reason is not None for reason in reasons) - not_asked,
        num_not_asked=not_asked,
    )


def agreement(metric: str, lines: Sequence[Line]) -> Agreement | None:
    """Return how the judge agrees with the labels of one metric, None where it has scored none of them."""
    pairs = [(line["scores"].get(metric), line["labels"][metric]) for line in lines if metric in line["labels"]]
    known = [(int(score >= GOOD), label) for score, label in pairs if score is not None]
    if not known:
        return None
    pairs_N2: I64 = np.array(known, dtype=np.int64)
    rows_BN = np.random.default_rng(SEED).integers(len(known), size=(DRAWS, len(known)))
    drawn_BN2 = pairs_N2[rows_BN]
    accuracies, kappas = _accuracies(drawn_BN2), _kappas(drawn_BN2)
    kappa = float(_kappas(pairs_N2[None])[0])
    return Agreement(
        metric=metric,
        num=len(known),
        num_undetermined=len(pairs) - len(known),
        accuracy=(float(_accuracies(pairs_N2[None])[0]), *_ends(accuracies)),
        kappa=None if math.isnan(kappa) else (kappa, *_ends(kappas)),
    )


def _accuracies(pairs_BN2: I64) -> F64:
    found: F64 = (pairs_BN2[..., 0] == pairs_BN2[..., 1]).mean(axis=1)
    return found


def _kappas(pairs_BN2: I64) -> F64:
    """Return kappa of each draw, NaN where chance alone would agree always."""
    ones_B2 = pairs_BN2.mean(axis=1)
    chance_B = ones_B2.prod(axis=1) + (1 - ones_B2).prod(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas_B: F64 = np.where(chance_B < 1, (_accuracies(pairs_BN2) - chance_B) / (1 - chance_B), np.nan)
    return kappas_B


def _ends(values_B: F64) -> tuple[float, float]:
    low, high = np.nanpercentile(values_B, [2.5, 97.5])
    return float(low), float(high)


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
