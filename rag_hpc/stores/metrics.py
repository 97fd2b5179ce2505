"""What rankings and answers are worth: means by measure, the ranking as a TREC run, and a line a judged answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, read_json
from rag_hpc.core.manifest import Manifest

STAND_INS = "titles that stand in for questions"
METRICS, RUN, JUDGED = "metrics.json", "run.trec", "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one part is worth: the answers, or a ranking method."""

    part: str
    means: dict[str, float]  # by measure
    by_query: dict[str, dict[str, float]] = field(default_factory=dict)  # measure -> judged query -> value
    num_queries: int  # judged or not
    stand_ins: bool = False  # titles asked for their own documents: that is no quality


def write_metrics(
    unit_dir: Path,
    part: str,
    num_queries: int,
    metrics: dict[str, float],
    *,
    by_query: dict[str, dict[str, float]],
    stand_ins: bool = False,
    handed_on: bool = False,
) -> None:
    """Write the means of one part: the answers, or a ranking, and the values of its judged queries.

    `handed_on`: whether it is the ranking that the answers were made from.
    """
    value: dict[str, Any] = {"part": part, "num_queries": num_queries, "metrics": metrics, "by_query": by_query}
    value["handed_on"] = handed_on
    value |= {"queries": STAND_INS} if stand_ins else {}
    (unit_dir / METRICS).write_bytes(canonical_json(value))


def write_judged(unit_dir: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write what each answer was judged to be, one line of JSON each."""
    (unit_dir / JUDGED).write_bytes(b"".join(canonical_json(line) for line in lines))


def read_measured(evaluated: Manifest) -> list[Measured]:
    """Return what every part is worth, in unit order; runs of before have no values by query."""
    return [
        Measured(
            part=value["part"],
            means=value["metrics"],
            by_query=value.get("by_query", {}),
            num_queries=value["num_queries"],
            stand_ins="queries" in value,
        )
        for value in map(read_json, evaluated.files(METRICS))
    ]


def read_metrics(evaluated: Manifest) -> dict[str, dict[str, float]]:
    """Return part -> measure -> mean."""
    return {measured.part: measured.means for measured in read_measured(evaluated)}


def read_handed_on(evaluated: Manifest) -> str | None:
    """Return the ranking that the answers were made from; runs of version 0.1.0 do not say."""
    values = [read_json(path) for path in evaluated.files(METRICS)]
    return next((value["part"] for value in values if value.get("handed_on")), None)


def read_judged(evaluated: Manifest) -> list[dict[str, Any]]:
    """Return the line of each answer, in order."""
    paths = evaluated.files(JUDGED)
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").split("\n") if line]
