"""The report of a study: what several parts measured, over each other, in one page and as pictures with their data.

All of it is made from the lines of studies (eval/study.py), and from checks.json where `rag-hpc study` wrote one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc import __version__
from rag_hpc.core.fs import publish_file
from rag_hpc.errors import InputError
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.report import measured, pictures
from rag_hpc.eval.report.figures import Drawn
from rag_hpc.eval.report.page import script, templates
from rag_hpc.eval.study import Study, parse
from rag_hpc.eval.tables import as_csv
from rag_hpc.eval.text import aligned, duration, percent, share

CHECKS, REPORT, TEMPLATE = "checks.json", "report.html", "study.html"


@dataclass(kw_only=True)
class Told:
    """Studies under one name, with what was checked of them."""

    name: str
    studies: list[Study]
    checks: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What could not be read, a line each."""
        return [problem for study in self.studies for problem in study.problems]


def read_folder(folder: Path) -> Told:
    """Return what a study's folder holds: its parts in the order in which they were asked for.

    Raises InputError for a folder without, and ConfigError for parts that are no study.
    """
    paths = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not paths:
        raise InputError(f"{folder}: no PART.jsonl in it; it is to be a folder that rag-hpc study or publish wrote")
    checks = json.loads((folder / CHECKS).read_text(encoding="utf-8")) if (folder / CHECKS).is_file() else {}
    order = [*[name for name in checks.get("parts", []) if name in paths], *paths]
    found = [parse(paths[name].read_bytes(), paths[name].name) for name in dict.fromkeys(order)]
    return Told(name=checks.get("study", folder.resolve().name), studies=found, checks=checks)


def write_report(told: Told, out: Path, prices: Prices | None = None) -> list[Path]:
    """Write report.html into the folder, and each picture as SVG, PNG and CSV; return their paths."""
    drawn = pictures.all_of(told.studies, prices or Prices(source="none given: what is used, without prices"))
    made = {f"{one.name}{suffix}": data for one in drawn for suffix, data in _files(one).items()}
    made[REPORT] = render(told, drawn, prices).encode("utf-8")
    for name, data in made.items():
        publish_file(out / name, data, overwrite=True)
    return [out / name for name in made]


def render(told: Told, drawn: Sequence[Drawn], prices: Prices | None = None) -> str:
    """Return the page; the same studies give the same text. It loads nothing; the script that it runs is its own."""
    found = templates()
    found.tests["of_time"] = lambda name: name.startswith(("units-", "waterfall-"))
    return found.get_template(TEMPLATE).render(
        name=told.name,
        version=__version__,
        **script(),
        pictures={one.name: one.inline() for one in drawn},
        checks={"forecast": [], "validation": [], "tracking": [], "tracking_missing": "", **told.checks},
        problems=told.problems,
        caveats=_caveats(told.studies),
        prices=prices,
        **measured.tables_of(told.studies, prices),
    )


def summary_lines(told: Told) -> list[str]:
    """Return what a terminal shows of the study: each sweep's ends, forecasts and what W&B's folders hold."""
    curves = [curve for study in told.studies for curve in measured.curves(study)]
    cells = [
        (c.part, c.stage, str(p), duration(c.mean(p)), f"{c.speedup(p):.2f}", share(c.speedup(p) / p * c.ps[0]))
        for c in curves
        for p in c.ps
    ]
    lines = [aligned(("part", "stage", "p", "T", "S", "E"), cells)] if cells else []
    lines += [f"{c.part}: {c.law}" for c in curves if len(c.ps) > 2]
    lines += [
        f"{row['part']}: T({row['p']}) foretold {duration(row['seconds'])} ({duration(row['low'])} to "
        f"{duration(row['high'])}), measured {duration(row['measured_s'])}, {percent(100 * row['error'])} off"
        + ("" if row["judged"] else f"; not judged, they share {row['cores']} cores")
        for row in told.checks.get("forecast", [])
    ]
    lines += [
        f"{row['study']}: {row['read_back']} of {row['points']} points read back from {row['entries']} W&B folders"
        for row in told.checks.get("tracking", [])
    ]
    lines += [missing] if (missing := told.checks.get("tracking_missing")) else []
    return [*lines, *[f"skipped: {problem}" for problem in told.problems]]


def _caveats(studies: Sequence[Study]) -> list[str]:
    """Return each caveat once, with the runs that it is about."""
    runs: dict[str, list[str]] = {}
    for caveat in (caveat for study in studies for caveat in study.caveats):
        run, _, said = caveat.partition(": ")
        runs.setdefault(said, []).append(run)
    others = {said: f" and {len(own) - 1} more" if len(own) > 1 else "" for said, own in runs.items()}
    return [f"{own[0]}{others[said]}: {said}" for said, own in runs.items()]


def _files(one: Drawn) -> dict[str, bytes]:
    return {".svg": one.svg(), ".png": one.png(), **({".csv": as_csv(one.rows)} if one.rows else {})}
