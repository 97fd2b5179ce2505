"""`rag-hpc publish RUN RUN ...`: what the records of runs tell, for a tracker (W&B) or as tables.

The records are gathered into STUDY.jsonl, and all else is made from that file, which can be given instead of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_hpc.arguments import as_json, group_values, reads_shared, root_of
from rag_hpc.core.fs import publish_file
from rag_hpc.core.ledger import known_runs
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.eval import wandb_dirs
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.entries import entries, tables
from rag_hpc.eval.results import Results, find_baseline, named, named_once
from rag_hpc.eval.study import SWEPT, Study, gather, name_of, parse
from rag_hpc.eval.tables import KINDS
from rag_hpc.eval.wandb_dirs import Mode, Tracking
from rag_hpc.schema import from_plain

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments


def publish(arguments: Arguments) -> int:
    """Publish the study; exit 3 when a record was skipped or a run is unfinished: what is there is published."""
    tracking = from_plain(Tracking, group_values(arguments, "tracking", "wandb"))
    prices = from_plain(Prices, group_values(arguments, "cost", "example"))
    out = arguments.values.get("--out")
    if out is None:
        wandb_dirs.load_wandb()
        if tracking.mode is Mode.online:
            wandb_dirs.check_key()
    study, notes = _study(arguments, tracking)
    told = _to_tables(study, prices, Path(out)) if out is not None else _to_wandb(study, prices, tracking)
    notes += [note for note in [study.no_curve, *study.caveats] if note]
    notes += [f"skipped: {problem}" for problem in study.problems]
    notes += [f"unfinished: {run}; go on: rag-hpc retry run={run}" for run in study.unfinished]
    if "--json" in arguments.flags:
        counts = {"runs": len(study.runs), "points": len(study.points()), "skipped": len(study.problems)}
        print(as_json({"study": study.name, **counts, **told, "notes": notes}))
    else:
        print(f"study     {study.name}\nruns      {', '.join(run.run for run in study.runs)}")
        print("\n".join([told["summary"], *notes]))
    return 3 if study.problems or study.unfinished else 0


def _study(arguments: Arguments, tracking: Tracking) -> tuple[Study, list[str]]:
    """Return the study that the words name, its lines written beside what is published, and what is to be said."""
    words = arguments.words
    if len(words) == 1 and words[0].endswith(".jsonl"):
        path = Path(words[0])
        if not path.is_file():
            raise InputError(f"{path}: no such file; name runs, or a STUDY.jsonl that publish wrote")
        return parse(path.read_bytes(), str(path)), []
    runs, notes = _runs(arguments)
    given = arguments.values.get("--baseline")
    name = tracking.study or name_of([run.name for run in runs])
    data = gather(runs, name, named(arguments, given).run_dir if given else None)
    folder = Path(arguments.values.get("--out", tracking.dir))
    study = parse(data, f"{name}.jsonl")  # refuses runs that are no study before anything is written
    with wandb_dirs.writable(folder), private_files():
        folder.mkdir(parents=True, exist_ok=True)
        publish_file(folder / f"{name}.jsonl", data, overwrite=True)
    return study, notes


def _runs(arguments: Arguments) -> tuple[list[Results], list[str]]:
    """Return the runs named, and the baseline of a single one; and what to do where that has none."""
    if not arguments.words:
        raise ConfigError(
            "name the runs of a study, or what a sweep is called: rag-hpc publish NAME; see: rag-hpc list"
        )
    names = list(dict.fromkeys(name for word in arguments.words for name in swept_runs(arguments, word)))
    if (given := arguments.values.get("--baseline")) and given not in names:
        names.append(given)
    runs = named_once(arguments, names)
    called = [run.name for run in runs]
    if same := [name for name in called if called.count(name) > 1]:
        raise ConfigError(
            f"two of these runs are called {same[0]}, and names are what tells them apart; rename a folder"
        )
    if len(runs) > 1 or runs[0].config["pipeline"]["name"] == "baseline":
        return runs, []
    beside = find_baseline(runs[0], shared=reads_shared(arguments))
    if beside:
        return [*runs, beside], []
    note = f"no baseline beside {runs[0].name}: S and E are left out; make one, of the same corpus: "
    return runs, [f"{note}rag-hpc run pipeline=baseline, or name one: --baseline RUN"]


def swept_runs(arguments: Arguments, word: str) -> list[str]:
    """Return the runs of the sweep of that name (NAME-w1 or NAME-p1-r1), or the word itself where it is a run."""
    root = root_of(arguments)
    if "/" in word or (root / word / "run.json").exists():
        return [word]
    known = [path.name for path in known_runs(root, shared=reads_shared(arguments))]
    points = [name for name in known if (match := SWEPT.fullmatch(name)) and match[1] == word]
    return points or [word]


def _to_tables(study: Study, prices: Prices, out: Path) -> dict[str, Any]:
    """Write each table as CSV and as Parquet; return their paths."""
    with wandb_dirs.writable(out), private_files():
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for name, rows in tables(study, prices, study.points()).items():
            for suffix, make in KINDS.items():
                publish_file(out / f"{name}{suffix}", make(rows), overwrite=True)
                written.append(str(out / f"{name}{suffix}"))
    return {"summary": f"tables    {', '.join(written)}", "tables": written}


def _to_wandb(study: Study, prices: Prices, tracking: Tracking) -> dict[str, Any]:
    made = entries(study, prices, most=tracking.max_runs)
    done = wandb_dirs.write(made, study.name, tracking)
    folder = Path(tracking.dir) / "wandb"
    if tracking.mode is Mode.online:
        done.uploaded = wandb_dirs.upload([entry.id for entry in made], tracking)
        ending = f"{len(done.uploaded)} uploaded"
    else:
        ending = f"upload: wandb sync {folder}/offline-run-*"
    if not (study.no_curve or made[-1].pictures):
        ending += "\nno picture of S: pip install 'rag-hpc[plots]'"
    counts = f"{len(done.written)} written, {len(done.kept)} as they were"
    summary = f"entries   {len(made)} in {folder}: {counts}; {ending}"
    return {"summary": summary, "written": done.written, "kept": done.kept, "uploaded": done.uploaded}
