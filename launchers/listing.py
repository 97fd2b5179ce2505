"""`rag-hpc list`: the runs that lie here, one line each, from their files alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, reads_shared, root_of
from rag_hpc.core.ledger import known_runs, open_run
from rag_hpc.core.log import shown
from rag_hpc.errors import RagHpcError
from rag_hpc.eval.text import amount, day
from rag_hpc.launchers.rows import overall, stage_rows

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

WIDTHS = {"run": 26, "state": 11, "corpus": 15, "date": 17}  # and the size: 80 columns hold all


def list(arguments: Arguments) -> int:
    """Print the runs, the one that was made last at the end: name, state, corpus, date, size."""
    root, shared = root_of(arguments), reads_shared(arguments)
    folders = known_runs(root, shared=shared)
    if "--json" in arguments.flags:
        print(as_json([*_runs(folders, shared=shared)]))
        return 0
    if not folders:
        print(f"no runs under {root.resolve()}; start one: rag-hpc run")
        return 0
    print("".join(f"{name:<{width}}" for name, width in WIDTHS.items()) + f"{'size':>11}", flush=True)
    said = []
    for run in _runs(folders, shared=shared):
        print(_row(run), flush=True)
        said += [f"{run['run']}: {run['reason']}"] if run["reason"] else []
    for line in said:
        print(shown(line))
    return 0


def _runs(folders: Sequence[Path], *, shared: bool) -> Iterator[dict[str, Any]]:
    """Yield what is to be said of each run, in the order in which they were made; a damaged one is only named."""
    for folder in sorted(folders, key=lambda path: (path / "run.json").stat().st_mtime):
        run = {"run": folder.name, "folder": str(folder.resolve()), "corpus": "", "created_unix": None, "reason": ""}
        try:
            ledger = open_run(folder, shared=shared)
            made = ledger.made()
            run |= {"corpus": _corpus(made["config"]), "created_unix": made["created_unix"]}
            run["state"] = overall(stage_rows(ledger.submission())) if ledger.submissions() else "not begun"
        except RagHpcError as error:
            run |= {"state": "unreadable", "reason": str(error)}
        yield {**run, "size_bytes": _size(folder)}


def _corpus(config: dict[str, Any]) -> str:
    """Return the corpus's name, and the last part of its path where it has one."""
    corpus = config.get("corpus", {})
    name, path = str(corpus.get("name", "")), corpus.get("path")
    return f"{name} {Path(str(path)).name}" if path else name


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(place, name).lstat().st_size
            except FileNotFoundError:  # a draft that was published meanwhile
                continue
    return total


def _row(run: dict[str, Any]) -> str:
    """Return the line of a run; a name that is too long has one of its own, whole, since it is to be copied."""
    cells = {
        "run": run["run"],
        "state": run["state"],
        "corpus": shown(run["corpus"]),
        "date": day(run["created_unix"])[:16],
    }
    long = len(cells["run"]) >= WIDTHS["run"]
    head = f"{cells['run']}\n" if long else ""
    if long:
        cells["run"] = ""
    row = "".join(f"{cells[name][: width - 1]:<{width}}" for name, width in WIDTHS.items())
    return f"{head}{row}{amount(run['size_bytes']):>11}"
