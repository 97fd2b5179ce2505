"""What a study says of itself: forecasts beside what came, laws tried on simulated runs, W&B's folders read back."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_hpc.eval import wandb_files
from rag_hpc.eval.forecast import predict
from rag_hpc.eval.results import Results, stage_of
from rag_hpc.eval.study import parse
from rag_hpc.eval.times import stage_times

NUM_PILOTS = 2  # of the smallest p: the others are foretold from them


def foretold(part: str, runs: Sequence[Results]) -> list[dict[str, Any]]:
    """Return a row for each p beyond the two smallest: T as runs of those foretell it, beside its mean.

    Of a sweep's runs one stage is measured, the others being those of its base; that is the stage told of.
    """
    by_p: dict[int, list[Results]] = {}
    for run in runs:
        by_p.setdefault(int(run.submission["workers"]), []).append(run)
    ps = sorted(by_p)
    pilots = [run for p in ps[:NUM_PILOTS] for run in by_p[p]]
    if len(ps) <= NUM_PILOTS or not pilots:
        return []
    own = measured_stages(pilots[0])
    rows = []
    for one in predict(pilots, ps[NUM_PILOTS:]):
        if one.stage not in own:
            continue
        times = [time for run in by_p[one.p] for time in stage_times(run) if time.stage == one.stage]
        mean = statistics.fmean(time.wall_s for time in times)
        told = {"part": part, **dataclasses.asdict(one), "pilots": ps[:NUM_PILOTS], "measured_s": mean}
        told |= {"error": one.seconds / mean - 1, "held": one.low <= mean <= one.high}
        # what a pilot cannot know: that more workers will be given no more cores
        busy = [time.cpu_s / time.wall_s for run in by_p[ps[0]] for time in stage_times(run) if time.stage == one.stage]
        cores = _cores([record for run in by_p[one.p] for record in run.records(_first_step(run, one.stage))])
        rows.append(told | {"cores": cores, "judged": not cores or one.p * statistics.fmean(busy) / ps[0] <= cores})
    return rows


def _first_step(run: Results, stage: str) -> str:
    return next(step for step in run.stages if stage_of(step) == stage)


def _cores(records: Sequence[dict[str, Any]]) -> int:
    """Return the cores of the machines that the records are from, each counted once; 0 where they do not tell."""
    machines = {r["hardware"].get("machine", r["host"]): r["hardware"].get("cores", 0) for r in records}
    return sum(machines.values())


def measured_stages(run: Results) -> set[str]:
    """Return the stages that the run itself ran; what came from its base bears the base's name."""
    names = {step: {record["run"] for record in run.records(step)} for step in run.stages}
    return {step.split(".")[0] for step, found in names.items() if found == {run.name}}


def validated(num_runs: int) -> list[dict[str, Any]]:
    """Return the rows of `rag-hpc bench laws`: fits of simulated runs against the truth that these were drawn from."""
    from rag_hpc.eval.bench.laws.laws import run

    return [row.plain() for row in run({"runs": str(num_runs)})]


def read_back(tracking: Path, lines: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each study: how many of its points stand in W&B's offline folders, with their p, T and S.

    lines: the files that the folders were made from.
    """
    stored = [wandb_files.read(folder) for folder in wandb_files.folders(tracking)]
    rows = []
    for path in lines:
        study = parse(path.read_bytes(), path.name)
        own = {entry.name: entry for entry in stored if entry.group == study.name}
        points = study.points()
        found = 0
        for point in points:
            entry = own.get(f"{point.run} {point.stage}")
            last = entry.history[-1] if entry and entry.exited and entry.history else {}
            told = {"p": point.p, "scaling/T": point.wall_s}
            told |= {} if study.no_curve else {"scaling/S": point.speedup}
            found += all(last.get(key) == value for key, value in told.items())
        num_units = sum("unit/index" in row for entry in own.values() for row in entry.history)
        rows.append(
            {"study": study.name, "entries": len(own), "points": len(points), "read_back": found, "units": num_units}
        )
    return rows
