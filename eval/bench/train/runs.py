"""The commands of a user that the training benchmark gives: a run over a BEIR folder, a training."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_hpc.errors import InputError
from rag_hpc.eval.bench.pairs import difference_of_means
from rag_hpc.eval.bench.rank.rank import STAGES
from rag_hpc.eval.bench.rows import Row
from rag_hpc.eval.results import Results

TO_CHUNKS = STAGES[: STAGES.index(",lexical")]


@dataclass(frozen=True)
class Trained:
    """The folder of a trained model, and what the training's record says of it."""

    model: str
    said: str


def ran(folder: Path, name: str, beir: Path, *more: str, stages: str = STAGES) -> Results:
    """Return the run of a BEIR folder on one worker, up to the hits or to other stages."""
    words = ["run", f"run={name}", "pipeline=baseline", f"pipeline.stages=[{stages}]", "corpus=beir"]
    _command(folder, [*words, f"corpus.path={beir}", "stage.clean.min_chars=0", *more])
    return Results(folder / "results/runs" / name)


def trained(folder: Path, kind: str, name: str, *settings: str) -> Trained:
    """Return the model that `rag-hpc train KIND` makes; a training that was stopped goes on."""
    told = _command(folder, ["train", kind, f"run={name}", *settings])
    record = next((folder / "results/runs" / name).glob(f"train.{kind}-*/units/unit-00000/record.json"))
    values = json.loads(record.read_text())
    figures, extra = values["timings"], values["extra"]
    said = f"{extra['steps']:.0f} steps, {values['work_s']:.0f} s, {figures['tokens_per_s']:.0f} tokens/s"
    return Trained(told.rsplit("=", 1)[1].strip(), f"{said}, busy {figures['busy_share']:.2f}, p={values['p']}")


def lift_row(
    name: str, measure: str, ours: Sequence[float], theirs: Sequence[float], note: str, contention: float, *, bar: bool
) -> Row:
    """Return the row of a measure before and after; bar: whether a lift is what is asked for."""
    difference, (low, high) = difference_of_means(ours, theirs)
    said = "a lift" if low > 0 else "none, since the interval holds 0" if high >= 0 else "a loss"
    return Row(
        name=f"{name}.{measure}",
        ours=statistics.fmean(ours),
        unit=measure,
        peers={"before": statistics.fmean(theirs)},
        ratio=difference,
        interval=(low, high),
        bar=0.0 if bar else None,
        contention=contention,
        note=f"ratio: after less before; {said}; {note}",
    )


def _command(folder: Path, words: Sequence[str]) -> str:
    command = [sys.executable, "-m", "rag_hpc.cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"bench train: `{' '.join(words[:3])}` ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
