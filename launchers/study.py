"""`rag-hpc study NAME`: measure what conf/study/NAME.yaml lists, and tell it in one folder.

A part is a sweep over p (`sweep`), whole runs at several p (`workers`), or runs that differ in settings (`vary`). What
each measured is a PART.jsonl, from which tables, W&B's folders and report.html are made; checks.json holds what was
foretold and then measured. What is measured is not measured again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import Arguments, as_json, choices, group_values
from rag_hpc.core.fs import publish_file
from rag_hpc.core.ledger import runs_root
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, IncompleteError, MissingDependency, did_you_mean
from rag_hpc.eval import study as told
from rag_hpc.eval.checks import foretold, read_back, validated
from rag_hpc.eval.publish import publish
from rag_hpc.eval.report.study import CHECKS, REPORT, read_folder, summary_lines, write_report
from rag_hpc.eval.results import Results
from rag_hpc.launchers import sweep as sweeping
from rag_hpc.launchers.cells import Cell, ledger_of, run_all, run_base

if TYPE_CHECKING:
    from rag_hpc.config import RunConfig
    from rag_hpc.core.ledger import Ledger

FOLDER = "results/studies"


@dataclass(kw_only=True)
class Part:
    """What is measured together: one of sweep, workers and vary."""

    sweep: str = ""  # STAGE_strong
    p: list[int] = field(default_factory=list)  # of the sweep
    repeats: int = 3
    most: int = 3
    workers: list[int] = field(default_factory=list)
    vary: dict[str, list[Any]] = field(default_factory=dict)  # setting -> its values; all combinations are run
    collection: str = ""  # pydoc, or cranfield, cisi or squad of $RAG_HPC_DATA; "" = the settings name a corpus
    settings: list[str] = field(default_factory=list)
    start: str = ""  # an earlier part, whose first run's finished stages are taken over

    def __post_init__(self) -> None:
        if sum(map(bool, (self.sweep, self.workers, self.vary))) != 1:
            raise ConfigError("study: a part has one of sweep (and p), workers and vary")
        if bool(self.sweep) != bool(self.p):
            raise ConfigError(f"study: sweep={self.sweep} and p={self.p} go together, such as p: [1, 2, 4]")


@dataclass(kw_only=True)
class Asked:
    """Settings of conf/study/NAME.yaml."""

    name: str = ""
    settings: list[str] = field(default_factory=list)  # of all parts
    parts: dict[str, Part] = field(default_factory=dict)
    validation_runs: int = 0  # simulated ones, that the laws' fits are tried on; 0 = none

    def __post_init__(self) -> None:
        names = list(self.parts)
        if not names:
            raise ConfigError(f"study={self.name}: it has no parts")
        for number, (name, part) in enumerate(self.parts.items()):
            if "/" in name or name.startswith("."):
                raise ConfigError(f"study={self.name}: part {name!r} names a file, so no slash, and no dot in front")
            if part.start and part.start not in names[:number]:
                raise ConfigError(f"study={self.name}: {name}.start={part.start} is no part before it")


def study(arguments: Arguments) -> int:
    """Measure all parts and write the folder; exit 1 when an output differs or a measurement was given up."""
    from rag_hpc.schema import from_plain

    name, known = next(iter(arguments.words), ""), choices(arguments.config_dir).get("study", [])
    if name not in known:
        raise ConfigError(f"study {name or 'NAME'}: {did_you_mean(name, known)}known: {', '.join(known)}")
    asked = from_plain(Asked, group_values(arguments, "study", name))
    out = Path(arguments.values.get("--out", f"{FOLDER}/{name}"))
    measuring = _Measuring(asked, arguments)
    if "--dry-run" in arguments.flags:
        print("\n".join(measuring.described()))
        return 0
    measured = {part: runs for part in asked.parts if (runs := measuring.measure(part))}
    if not measured:
        raise IncompleteError(f"study {name}: no measurement ended well; see: rag-hpc status, rag-hpc why run=RUN")
    with private_files():
        out.mkdir(parents=True, exist_ok=True)
        for part, runs in measured.items():
            publish_file(out / f"{part}.jsonl", told.gather(runs, part), overwrite=True)
        publish_file(out / CHECKS, as_json(_checks(asked, measured, out)).encode(), overwrite=True)
        found = read_folder(out)
        files = write_report(found, out)
    if "--json" in arguments.flags:
        print(as_json({"study": name, "given_up": measuring.given_up, "files": [str(path) for path in files]}))
    else:
        print("\n".join([*summary_lines(found), *[f"given up: {run}" for run in measuring.given_up]]))
        print(f"wrote {out / REPORT}")
    alike = [one for one in found.studies if not asked.parts[one.name].vary]
    differs = any(run.differing for one in alike for run in one.runs)
    return 1 if differs or measuring.given_up else 0


def _checks(asked: Asked, measured: dict[str, list[Results]], out: Path) -> dict[str, Any]:
    """Return what was foretold beside what was measured, the laws' validation, and what W&B's folders hold."""
    sweeps = [part for part in measured if asked.parts[part].sweep]
    checks: dict[str, Any] = {"study": asked.name, "parts": list(measured)}
    checks["forecast"] = [row for part in sweeps for row in foretold(part, measured[part])]
    if asked.validation_runs:
        checks["validation"] = validated(asked.validation_runs)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for part in measured:
                publish(Arguments("publish", [f"tracking.dir={out}/tracking"], [str(out / f"{part}.jsonl")]))
    except MissingDependency as error:
        return {**checks, "tracking_missing": str(error)}
    return {**checks, "tracking": read_back(out / "tracking", [out / f"{part}.jsonl" for part in measured])}


class _Measuring:
    """The runs of a study's parts."""

    def __init__(self, asked: Asked, arguments: Arguments) -> None:
        self._asked, self._arguments = asked, arguments
        self._own = [one for one in arguments.overrides if one.split("=", 1)[0].split(".")[0] != "study"]
        self._sweeps: dict[str, sweeping.Sweeper] = {}
        self._cells: dict[str, list[Cell]] = {}
        self.given_up: list[str] = []
        for name, part in asked.parts.items():
            if part.sweep:
                self._sweeps[name] = self._sweeper(name, part)
            else:
                self._cells[name] = self._grid(name, part)

    def described(self) -> list[str]:
        """Return what would be run, a line each."""
        lines: list[str] = []
        for name in self._asked.parts:
            if name in self._sweeps:
                lines += [f"{name}: {self._sweeps[name].described()}"]
            else:
                lines += [f"{name}: {cell.ledger.name}" for cell in self._cells[name]]
        return lines

    def measure(self, name: str) -> list[Results]:
        """Run what the part lacks; return its finished runs."""
        start = self._asked.parts[name].start
        first = self._first(start) if start else None
        if name in self._sweeps:
            measured = self._sweeps[name].measure(first)
            self.given_up += [run for point in measured.values() for run in point.failed]
            return self._sweeps[name].runs()
        cells = self._cells[name]
        cells[0].base = first
        run_base(cells[0], self._arguments)
        for cell in cells[1:] if self._asked.parts[name].vary else []:
            cell.base = cells[0].ledger  # stages that the settings change nothing of are finished
        run_all([cell for cell in cells if not cell.finished], self._arguments)
        self.given_up += [cell.ledger.name for cell in cells if not cell.finished]
        return [Results(cell.ledger.run_dir) for cell in cells if cell.finished]

    def _first(self, name: str) -> Ledger:
        """Return the first run of a part that is measured."""
        if name in self._cells:
            return self._cells[name][0].ledger
        return ledger_of(self._sweeps[name].first)

    def _sweeper(self, name: str, part: Part) -> sweeping.Sweeper:
        own = {"sweep": part.sweep, "p": ",".join(map(str, part.p)), "run": f"{self._asked.name}-{name}"}
        own |= {"repeats": str(part.repeats), "most": str(part.most)}
        words = [*self._settings(part), *(f"{key}={value}" for key, value in own.items()), *self._own]
        arguments = Arguments("sweep", words, flags=self._arguments.flags, values=self._arguments.values)
        asked, overrides = sweeping.read_study(arguments)
        return sweeping.Sweeper(asked, overrides, arguments)

    def _grid(self, name: str, part: Part) -> list[Cell]:
        """Return the cells of a part: the values of what varies stand in the run's name."""
        varied = part.vary or {"workers": part.workers}
        cells = []
        for values in itertools.product(*varied.values()):
            called = "-".join(
                f"{'w' if key == 'workers' else ''}{value}" for key, value in zip(varied, values, strict=True)
            )
            run = f"{self._asked.name}-{name}-{called}"
            own = [f"{key}={value}" for key, value in zip(varied, values, strict=True)]
            cells.append(Cell(config=self._composed([*self._settings(part), *self._own, *own, f"run={run}"])))
        return cells

    def _settings(self, part: Part) -> list[str]:
        if not part.collection:
            return [*self._asked.settings, *part.settings]
        from rag_hpc.eval.bench.rank.collections import overrides_of

        root = runs_root(self._arguments.override("cluster.root")).parent / "collections"
        data = Path(os.environ.get("RAG_HPC_DATA", "."))
        root.mkdir(parents=True, exist_ok=True)
        words = overrides_of(part.collection, data, (root / part.collection).absolute())
        return [*words, *self._asked.settings, *part.settings]

    def _composed(self, overrides: Sequence[str]) -> RunConfig:
        from rag_hpc.config import check, compose

        config = compose(overrides, self._arguments.config_dir)
        check(config)
        return config
