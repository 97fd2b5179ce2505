"""`rag-hpc report SWEEP|RUN RUN ...|FOLDER`: one page of several runs, laid over each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rag_hpc.arguments import as_json
from rag_hpc.core.fs import publish_file
from rag_hpc.errors import InputError
from rag_hpc.eval.cost import Prices
from rag_hpc.eval.publish import swept_runs
from rag_hpc.eval.report import pictures
from rag_hpc.eval.report.study import Told, read_folder, render, write_report
from rag_hpc.eval.results import named, named_once
from rag_hpc.eval.study import gather, name_of, parse

if TYPE_CHECKING:
    from rag_hpc.arguments import Arguments

FOLDER = Path("results/studies")


def several(arguments: Arguments) -> Told | None:
    """Return the studies that the words name, None where they name one run.

    A word is a folder that `rag-hpc study` wrote, a STUDY.jsonl, the name of a sweep, or a run; runs that are named by
    themselves are one study. Raises InputError and ConfigError as those who read them.
    """
    words = arguments.words
    if len(words) == 1 and Path(words[0]).is_dir() and not (Path(words[0]) / "run.json").exists():
        return read_folder(Path(words[0]))
    studies, alone = [], []
    for word in words:
        if word.endswith(".jsonl"):
            if not Path(word).is_file():
                raise InputError(f"{word}: no such file; name runs, a sweep, or a STUDY.jsonl that publish wrote")
            studies.append(parse(Path(word).read_bytes(), Path(word).name))
            continue
        runs = swept_runs(arguments, word)
        if runs == [word]:
            alone.append(word)
        else:
            studies.append(parse(gather([named(arguments, run) for run in runs], word), word))
    if not studies and len(alone) < 2:
        return None
    if alone:
        given = arguments.values.get("--baseline")
        baseline = named(arguments, given).run_dir if given else None
        name = name_of([Path(word).name for word in alone])
        studies.append(parse(gather(named_once(arguments, alone), name, baseline), name))
    return Told(name=name_of([study.name for study in studies]), studies=studies)


def report_several(told: Told, arguments: Arguments, prices: Prices) -> int:
    """Write the page and its pictures into a folder, or `--out FILE.html` alone; exit 3 where something was skipped."""
    out = Path(arguments.values.get("--out", FOLDER / told.name))
    if out.suffix == ".html":
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: no folder {out.parent}; make it first")
        page = render(told, pictures.all_of(told.studies, prices), prices)
        publish_file(out, page.encode("utf-8"), overwrite=True)
        files = [out]
    else:
        out.mkdir(parents=True, exist_ok=True)
        files = write_report(told, out, prices)
    if "--json" in arguments.flags:
        print(as_json({"study": told.name, "files": [str(path) for path in files], "skipped": told.problems}))
    else:
        print("\n".join([*[f"skipped: {problem}" for problem in told.problems], f"wrote {files[-1]}"]))
    return 3 if told.problems else 0
