"""`rag-hpc metrics RUN ...`: what every ranking method and the answers are worth, with intervals over the queries."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import F64
from rag_hpc.arguments import as_json
from rag_hpc.core.ledger import run_handle
from rag_hpc.core.log import folded, shown
from rag_hpc.errors import ConfigError, IncompleteError, InputError
from rag_hpc.eval import quality
from rag_hpc.eval.exchange import write_exchange
from rag_hpc.eval.judged import Judgement, judgement
from rag_hpc.eval.results import Results, chosen_run, named_once
from rag_hpc.eval.text import aligned
from rag_hpc.stores.metrics import STAND_INS, Measured

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

RESAMPLES = 2000
BLOCK = 200  # resamples at a time, so that those of thousands of queries fit into memory
QUESTIONS = "questions"
FORMATS = ("--json", "--csv", "--latex")
HEADER = ("method", "measure", "mean", "95 % interval", "queries")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """One measure of one method in one run. The interval is None where a run of before kept no values by query."""

    run: str
    method: str
    measure: str
    mean: float
    low: float | None
    high: float | None
    num_queries: int | None  # that the mean is over
    queries: str  # QUESTIONS or STAND_INS


def metrics(arguments: Arguments) -> int:
    """Print a row a measure, as a table, CSV, LaTeX or JSON; exit 3 when a run is not evaluated yet."""
    wanted = [name for name in FORMATS if name in arguments.flags]
    if len(wanted) > 1:
        raise ConfigError(f"{' and '.join(wanted)}: one of them at a time")
    runs = named_once(arguments, arguments.words) or [chosen_run(arguments)]
    judgements = [(run, found) for run in runs if (found := judgement(run)) is not None]
    rows = [row for run in runs for row in means(run)] + [row for each in judgements for row in judged_means(*each)]
    notes = [note for run in runs for note in quality.caveats(run)]
    notes += [note for run, found in judgements for note in found.notes(run)]
    if "--out" in arguments.values:
        if len(runs) > 1:
            raise ConfigError("--out: the files of one run at a time")
        written = write_exchange(runs[0], Path(arguments.values["--out"]))
        notes.append(f"{arguments.values['--out']}: {', '.join(written)}")
    if wanted == ["--json"]:
        print(as_json({"means": [dataclasses.asdict(row) for row in rows], "notes": notes}))
    elif wanted == ["--csv"]:
        print(as_csv(rows), end="")
        print(*(f"{shown(note)}\n" for note in notes), sep="", end="", file=sys.stderr)
    elif wanted == ["--latex"]:
        print(as_latex(rows, notes), end="")
    else:
        print(as_table(rows, notes), end="")
    return 0


def means(run: Results) -> list[Mean]:
    """Return the measures of a run, rankings by method and then the answers. Raises IncompleteError before evaluate."""
    if "evaluate" not in run.stages:
        raise InputError(f"{run.name}: its pipeline has no evaluate; run again with pipeline=cluster or baseline")
    if "evaluate" not in run.manifests:
        raise IncompleteError(
            f"{run.name}: evaluate is not finished; go on: rag-hpc retry run={run_handle(run.run_dir)}"
        )
    parts = {measured.part: measured for measured in quality.measured(run)}
    order = [*quality.METHODS, *[part for part in parts if part not in (*quality.METHODS, quality.OF_ANSWERS)]]
    names = quality.measure_names(run, {part: parts[part].means for part in order if part in parts})
    rankings = [(part, name) for part in order if part in parts for name in names if name in parts[part].means]
    rows = [_mean(run, parts[part], name, parts[part].by_query.get(name, {})) for part, name in rankings]
    return rows + list(_answers(run, parts[quality.OF_ANSWERS])) if quality.OF_ANSWERS in parts else rows


def judged_means(run: Results, found: Judgement) -> Iterator[Mean]:
    """Yield the judge's scores, each beside what it would be with all undetermined at 0 and at 1; then agreements."""
    of = {"run": run.name, "queries": STAND_INS if quality.stand_ins(run) else QUESTIONS}
    for one in found.scores:
        kinds = {"": list(one.values.values())}
        if one.num_undetermined:
            kinds |= {f", undetermined as {value}": one.all_at(value) for value in (0, 1)}
        for suffix, values in kinds.items():
            if values:
                low, high = interval(values)
                ends: dict[str, Any] = {"low": low, "high": high, "num_queries": len(values), **of}
                mean = round(sum(values) / len(values), 6)
                yield Mean(method=f"judge {found.model}", measure=f"{one.metric}{suffix}", mean=mean, **ends)
    for each in found.agreements:
        for name, value in (("accuracy", each.accuracy), ("kappa", each.kappa)):
            if value is not None:
                mean, low, high = (round(number, 6) for number in value)
                ends = {"low": low, "high": high, "num_queries": each.num, **of}
                yield Mean(method="judge, labelled samples", measure=f"{each.metric} {name}", mean=mean, **ends)


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 percent interval of the mean (Efron, Tibshirani 1993)."""
    rng, values_Q = np.random.default_rng(seed), np.asarray(values, dtype=np.float64)
    size = len(values_Q)
    blocks: list[F64] = [
        values_Q[rng.integers(size, size=(BLOCK, size))].mean(axis=1) for _ in range(RESAMPLES // BLOCK)
    ]
    low, high = np.percentile(np.concatenate(blocks), [2.5, 97.5])
    return float(low), float(high)


def as_table(rows: Sequence[Mean], notes: Sequence[str]) -> str:
    """Return the rows for people, a table a run, each method named once."""
    tables = []
    for run in dict.fromkeys(row.run for row in rows):
        own = [row for row in rows if row.run == run]
        firsts = [number == 0 or own[number - 1].method != row.method for number, row in enumerate(own)]
        cells = [_cells(row, first) for row, first in zip(own, firsts, strict=True)]
        tables.append(f"run  {shown(run)}\n\n{aligned(HEADER, cells)}\n")
    return "\n".join([*(folded(shown(note), sys.stdout) for note in notes), *tables])


def as_csv(rows: Sequence[Mean]) -> str:
    """Return the rows under the names of their fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Mean)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()


def as_latex(rows: Sequence[Mean], notes: Sequence[str]) -> str:
    """Return a tabular (booktabs) for rankings and one for answers: a line a method, a column a measure."""
    judged = [row for row in rows if row.method.startswith("judge")]
    answers = [row for row in rows if row.method.startswith(quality.OF_ANSWERS)]
    rankings = [row for row in rows if row not in (*answers, *judged)]
    groups = [group for group in (rankings, answers, judged) if group]
    comments = [f"% {note}\n" for note in notes]
    return "".join([*comments, *["".join(_tabular(group)) for group in groups]])


def _cells(row: Mean, first: bool) -> tuple[str, ...]:
    spread = "–" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    count = "–" if row.num_queries is None else str(row.num_queries)
    return (labelled(row.method, row.queries) if first else "", row.measure, f"{row.mean:.4f}", spread, count)


def _tabular(rows: Sequence[Mean]) -> Iterator[str]:
    names = list(dict.fromkeys(row.measure for row in rows))
    yield f"\\begin{{tabular}}{{ll{'r' * len(names)}}}\n\\toprule\nrun & method"
    yield "".join(f" & {_tex(name)}" for name in names) + " \\\\\n\\midrule\n"
    for run, method in dict.fromkeys((row.run, labelled(row.method, row.queries)) for row in rows):
        found = {row.measure: row for row in rows if (row.run, labelled(row.method, row.queries)) == (run, method)}
        yield " & ".join([_tex(run), _tex(method), *[_tex_mean(found.get(name)) for name in names]]) + " \\\\\n"
    yield "\\bottomrule\n\\end{tabular}\n"


def _tex_mean(row: Mean | None) -> str:
    if row is None:
        return "--"
    return f"{row.mean:.3f}" + ("" if row.low is None else f" {{\\scriptsize [{row.low:.3f}, {row.high:.3f}]}}")


def _tex(text: str) -> str:
    return "".join(f"\\{char}" if char in "&%$#_{}" else char for char in text if char not in "\\^~")


def labelled(method: str, queries: str) -> str:
    """Return the method, marked where titles stand in for its questions."""
    return f"{method} (titles)" if queries == STAND_INS else method


def _mean(run: Results, measured: Measured, name: str, by_query: dict[str, float]) -> Mean:
    low, high = interval(list(by_query.values())) if by_query else (None, None)
    return Mean(
        run=run.name,
        method=measured.part,
        measure=name,
        mean=measured.means[name],
        low=low,
        high=high,
        num_queries=len(by_query) or None,
        queries=STAND_INS if measured.stand_ins else QUESTIONS,
    )


def _answers(run: Results, measured: Measured) -> Iterator[Mean]:
    """Yield the measures of all answers; F1 once more of those held out, where the set says which are."""
    lines = quality.answer_lines(run)
    for name in measured.means:
        key = "found" if name == "answered" else name
        values = {line["query_id"]: float(line[key]) for line in lines if line.get(key) is not None}
        yield _mean(run, measured, name, values)
    marked = {q["query_id"] for q in quality.questions(run) if q["held_out"]}
    held_out = {q["query_id"]: q["f1"] for q in lines if q["query_id"] in marked and q["f1"] is not None}
    if held_out:
        mean = sum(held_out.values()) / len(held_out)
        part = dataclasses.replace(measured, part=f"{quality.OF_ANSWERS}, held out", means={"f1": round(mean, 6)})
        yield _mean(run, part, "f1", held_out)
