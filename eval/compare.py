"""`rag-hpc compare REFERENCE RUN ...`: is a run as good as another on the same queries, measure by measure?

A measure is held when the whole interval of the difference lies above minus the margin, and lost when it lies below.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_hpc.arguments import as_json, number_between, out_file
from rag_hpc.core.fs import publish_file
from rag_hpc.core.log import folded
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval import quality
from rag_hpc.eval.metrics import QUESTIONS, labelled, means
from rag_hpc.eval.paired import difference, holm
from rag_hpc.eval.report.page import script, templates
from rag_hpc.eval.results import Results, named_once
from rag_hpc.eval.tables import as_csv
from rag_hpc.eval.text import aligned
from rag_hpc.stores.metrics import STAND_INS

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

HELD, LOST, OPEN = "held", "lost", "open"
MARGIN, ALPHA = 0.01, 0.05
TEMPLATE = "compare.html"
HEADER = ("run", "method", "measure", "mean", "reference", "difference", "95 % interval", "p", "queries", "verdict")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure of one method in a run beside that of the reference, over the queries judged in both."""

    run: str
    method: str
    measure: str
    mean: float
    reference: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float  # over the runs and measures of one comparison
    num_queries: int
    queries: str  # QUESTIONS or STAND_INS, of either run
    verdict: str  # HELD, LOST, or OPEN: the interval holds minus the margin

    @property
    def differs(self) -> bool:
        """Whether chance alone is no likely reason for the difference."""
        return self.p_holm < ALPHA


def compare(arguments: Arguments) -> int:
    """Print a row a measure; exit 1 when one is lost. Raises ConfigError, InputError and IncompleteError."""
    if {"--json", "--csv"} <= arguments.flags:
        raise ConfigError("--json and --csv: one of them at a time")
    if len(arguments.words) < 2:
        raise ConfigError("name a reference and the runs to hold against it: rag-hpc compare BASELINE RUN ...")
    out = out_file(arguments)
    if out and out.suffix not in (".html", ".csv"):
        raise ConfigError(f"--out {out}: name a file that ends in .html or .csv")
    margin = number_between("margin", arguments.override("margin") or str(MARGIN), 0.0, 1.0)
    reference, *runs = named_once(arguments, arguments.words)
    rows = judged(reference, runs, margin, arguments.override("measure"), arguments.override("method"))
    notes = [note for run in (reference, *runs) for note in quality.caveats(run)]
    if out:
        page = as_html(reference.name, rows, margin, notes) if out.suffix == ".html" else as_csv(_plain(rows))
        publish_file(out, page, overwrite=True)
    if "--json" in arguments.flags:
        print(as_json({"reference": reference.name, "margin": margin, "rows": _plain(rows), "notes": notes}))
    elif "--csv" in arguments.flags:
        print(as_csv(_plain(rows)).decode("utf-8"), end="")
        print(*(f"{note}\n" for note in notes), sep="", end="", file=sys.stderr)
    else:
        table = aligned(HEADER, [_cells(row) for row in rows], keys=3)
        said = [folded(line, sys.stdout) for line in (*notes, *legend(margin))]
        print("\n".join([f"reference  {reference.name}", "", table, "", *said]))
    return 1 if any(row.verdict == LOST for row in rows) else 0


def judged(
    reference: Results, runs: Sequence[Results], margin: float, measure: str | None = None, method: str | None = None
) -> list[Row]:
    """Return the rows of all runs, in their order; measure and method narrow them.

    Raises ConfigError where a query of the same id asks something else, InputError where there is nothing to compare.
    """
    theirs, asked = _values(reference), _questions(reference)
    titles = any(quality.stand_ins(run) for run in (reference, *runs))
    paired = []
    for run in runs:
        mine = _values(run)
        if other := [query for query, text in _questions(run).items() if asked.get(query, text) != text]:
            raise ConfigError(f"{run.name} and {reference.name} ask other questions, for one under the id {other[0]}")
        for key, by_query in mine.items():
            if key in theirs and measure in (None, key[1]) and method in (None, key[0]):
                both = [query for query in by_query if query in theirs[key]]
                if both:
                    values, others = ([found[query] for query in both] for found in (by_query, theirs[key]))
                    paired.append((run.name, key, values, others, difference(values, others)))
    if not paired:
        known = ", ".join(f"{part} {name}" for part, name in theirs) or "none with values by query"
        raise InputError(f"{reference.name} and the runs have no such query judged in both; the reference has: {known}")
    adjusted = holm([found.p for *_, found in paired])
    return [
        Row(
            run=name,
            method=key[0],
            measure=key[1],
            mean=sum(values) / len(values),
            reference=sum(others) / len(others),
            difference=found.mean,
            low=found.low,
            high=found.high,
            p=found.p,
            p_holm=p_holm,
            num_queries=found.num,
            queries=STAND_INS if titles else QUESTIONS,
            verdict=verdict(found.low, found.high, margin),
        )
        for (name, key, values, others, found), p_holm in zip(paired, adjusted, strict=True)
    ]


def verdict(low: float, high: float, margin: float) -> str:
    """Return what the interval of a difference says of a loss greater than the margin."""
    return HELD if low >= -margin else LOST if high < -margin else OPEN


def legend(margin: float) -> list[str]:
    """Return what verdicts and p mean, a line each."""
    points = f"{100 * margin:g} point{'s' * (margin != 0.01)}"
    return [
        f"{HELD}: not worse by more than {points}, by the interval; {LOST}: worse by more; {OPEN}: it does not tell",
        f"p: paired randomisation test, adjusted by Holm over all rows; *: below {ALPHA:g}",
    ]


def as_html(reference: str, rows: Sequence[Row], margin: float, notes: Sequence[str]) -> bytes:
    """Return a page that loads nothing, and runs no script but its own."""
    numbers = {3: "mean", 4: "reference", 5: "difference", 6: "low", 7: "p_holm", 8: "num_queries"}
    cells = [(row.verdict, {place: getattr(row, name) for place, name in numbers.items()}, _cells(row)) for row in rows]
    page = (
        templates()
        .get_template(TEMPLATE)
        .render(
            reference=reference,
            header=HEADER,
            numbers=numbers,
            rows=cells,
            notes=[*legend(margin), *notes],
            **script(),
        )
    )
    return page.encode("utf-8")


def _values(run: Results) -> dict[tuple[str, str], dict[str, float]]:
    """Return (method, measure) -> query -> value. Raises as `metrics.means` does for a run that is not evaluated."""
    order = list(dict.fromkeys((row.method, row.measure) for row in means(run)))
    found = {(part.part, name): by_query for part in quality.measured(run) for name, by_query in part.by_query.items()}
    lines = quality.answer_lines(run)
    f1 = {line["query_id"]: float(line["f1"]) for line in lines if line["f1"] is not None}
    found |= {(quality.OF_ANSWERS, "f1"): f1} if f1 else {}
    return {key: found[key] for key in order if found.get(key)}


def _questions(run: Results) -> dict[str, str]:
    return {question["query_id"]: question["text"] for question in quality.questions(run)}


def _plain(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [dataclasses.asdict(row) for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.run,
        labelled(row.method, row.queries),
        row.measure,
        f"{row.mean:.4f}",
        f"{row.reference:.4f}",
        f"{row.difference:+.4f}",
        f"{row.low:+.4f} to {row.high:+.4f}",
        f"{row.p_holm:.3f}{' *' * row.differs}",
        str(row.num_queries),
        row.verdict,
    )
