"""Damage to the files of a finished run, and what each verb then says: the cells of the table in results/trust."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag_hpc import cli
from rag_hpc.core.failures import record_failure
from rag_hpc.core.unit import Unit

READING = ("status", "why", "verify", "verify --files", "report", "milestones", "ask")
MENDING = ("retry", "run")
NAMED, UNREAD, REDONE, OPEN, WRONG = "N", "-", "R", "O", "!"
LEGEND = {
    NAMED: "the verb fails and names the file",
    UNREAD: "the verb does not need the file: same output and exit code as for the whole run, every output hash kept",
    REDONE: "the file is made again, or no longer needed and gone, and the run has the hashes that it had",
    OPEN: "the run counts as unfinished (exit 3), as before the file was written; `retry` and `run` finish it",
}
HEAD = """# Damaged files

Every kind of file of a finished run, each damaged in five ways, and what each verb makes of it. The letters of a cell
are, in this order, for {damages}. `replace` puts the file of another run there.
The outputs of all stages were damaged together before `retry` and `run`, all else one at a time.

{legend}

No cell is a traceback or another answer. The table is written by
`RAG_HPC_DAMAGE=all python -m pytest tests/e2e/test_damage.py -k every_damage`.

"""
QUESTION = "Which argument of a deque keeps only the last items?"


def flip(data: bytes) -> bytes:
    """Return it with one bit in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    """Return its first two thirds."""
    return data[: len(data) * 2 // 3]


def empty(data: bytes) -> bytes:
    """Return nothing."""
    return b""


CHANGES: dict[str, Callable[[bytes], bytes]] = {change.__name__: change for change in (flip, cut, empty)}
DAMAGES = (*CHANGES, "remove", "replace")


def spoil(run_dir: Path, path: Path, damage: str, other: Path) -> None:
    """Damage a file of a run; it is replaced by another run's of its kind, or another unit's where that is the same."""
    data, place = (run_dir / path).read_bytes(), path.parts[0]
    if damage == "remove":
        (run_dir / path).unlink()
    elif damage == "replace":
        stage = place.rpartition("-")[0]
        alike = [other / path] if place == "submissions" else [*other.glob(f"{stage}-*/{path.name}"), other / path.name]
        alike += [*sorted(other.glob(f"{stage}-*/units/*/{path.name}")), other / "run.json"]
        (run_dir / path).write_bytes(next(p.read_bytes() for p in alike if p.exists() and p.read_bytes() != data))
    else:
        (run_dir / path).write_bytes(CHANGES[damage](data))


def kinds(run_dir: Path) -> dict[str, Path]:
    """Return each kind of file in a run with one of its kind, relative to the run; a failed attempt is added to it."""
    lexical = next(run_dir.glob("lexical-*"))
    record_failure(lexical, Unit(0, {}), ValueError("no luck"), submission=1)
    submission = run_dir / "submissions/0001"
    paths = {
        path.name: path for path in (run_dir / "run.json", submission / "submission.json", submission / "jobs.jsonl")
    }
    paths |= {"STAGE.plan.json": submission / "lexical.plan.json", "manifest.json": lexical / "manifest.json"}
    paths |= {"record.json": lexical / "units/unit-00000/record.json"}
    paths |= {"failures/unit-N.M.json": next(lexical.glob("failures/*.json"))}
    for path in sorted(run_dir.glob("*/units/*/*")):
        stage = path.parents[2].name.rpartition("-")[0]
        if path.name != "record.json" and path.stat().st_size:
            paths.setdefault(f"{stage}: {path.name}", path)
    return {kind: path.relative_to(run_dir) for kind, path in paths.items()}


@dataclass(frozen=True)
class Said:
    """What a verb gave."""

    code: int | None  # None: a traceback
    text: str
    page: str = ""


@dataclass(frozen=True)
class Trial:
    """A finished run, copies of which are damaged, another finished run, and the command that made the first."""

    run_dir: Path
    other: Path
    command: Sequence[str]  # without run=NAME
    whole: dict[str, Said] = field(default_factory=dict)  # what the verbs give while nothing is damaged

    def reading(self, path: Path, damage: str, verbs: Sequence[str]) -> dict[str, str]:
        """Return the cell of each verb that reads only, for one file of the run; the file is restored."""
        for verb in verbs:
            self.whole.setdefault(verb, self._ask(verb))
        at = self.run_dir / path
        data, times = at.read_bytes(), at.stat()
        spoil(self.run_dir, path, damage, self.other)
        try:
            return {verb: self._judge(self.whole[verb], self._ask(verb), path) for verb in verbs}
        finally:
            at.write_bytes(data)
            os.utime(at, ns=(times.st_atime_ns, times.st_mtime_ns))

    def mending(self, paths: Sequence[Path], damage: str, verb: str) -> dict[Path, str]:
        """Return the cell of `retry` or `run` for each of some files, damaged together in a copy of the run.

        The copy is as good as the run afterwards, every byte of it.
        """
        copy = self.run_dir.with_name(f"{self.run_dir.name}-{verb}")
        shutil.copytree(self.run_dir, copy)
        try:
            for path in paths:
                spoil(copy, path, damage, self.other)
            spoiled = {path: content(copy / path) for path in paths}
            words = [verb, f"run={copy.name}", f"cluster.root={copy.parent}", "workers=1"]
            said = call(*words, *(self.command if verb == "run" else ()))
            if said.code:
                return {path: NAMED if names(said, path) else said_wrong(said) for path in paths}
            after = call("verify", self.other.name, copy.name, "--files", f"cluster.root={copy.parent}")
            if output_hashes(copy) != output_hashes(self.run_dir) or after.code:
                return dict.fromkeys(paths, said_wrong(after))
            return {path: UNREAD if content(copy / path) == spoiled[path] else REDONE for path in paths}
        finally:
            shutil.rmtree(copy)

    def _ask(self, verb: str) -> Said:
        root, name = f"cluster.root={self.run_dir.parent}", self.run_dir.name
        if verb == "ask":
            return call("ask", QUESTION, f"run={name}", root, "--json")
        if verb.startswith("verify"):
            return call(*verb.split(), self.other.name, name, root)
        if verb != "report":
            return call(verb, name, root)
        out = self.run_dir.parent / "report.html"
        out.unlink(missing_ok=True)
        said = call("report", name, root, "--baseline", self.other.name, f"--out={out}")
        return Said(said.code, said.text, out.read_text(encoding="utf-8") if out.exists() else "")

    def _judge(self, whole: Said, said: Said, path: Path) -> str:
        if said == whole:
            return UNREAD
        if said.code in (1, 2) and names(said, path):
            return NAMED
        unfinished = said.code == 3 or "unfinished" in said.page
        return OPEN if unfinished and path.name in ("manifest.json", "submission.json") else said_wrong(said)


def write_table(trial: Trial, path: Path, verbs: Sequence[str]) -> list[str]:
    """Try everything, write the table, and return what should not be, a line a cell."""
    files, reading = kinds(trial.run_dir), [verb for verb in verbs if verb in READING]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    outputs = [kind for kind, place in files.items() if place.parts[1:2] == ("units",) and kind != "record.json"]
    groups = [[kind] for kind in files if kind not in outputs] + [outputs]  # a stage redone costs much, so all at once
    for group in groups:
        for damage in DAMAGES:
            for kind in group:
                cells[kind, damage] = trial.reading(files[kind], damage, reading)
            for verb in (verb for verb in verbs if verb in MENDING):
                found = trial.mending([files[kind] for kind in group], damage, verb)
                for kind in group:
                    cells[kind, damage][verb] = found[files[kind]]
    rows = []
    for kind in files:
        letters = ["".join(cells[kind, damage][verb][0] for damage in DAMAGES) for verb in verbs]
        rows.append(f"| {kind} | {' | '.join(f'`{cell}`' for cell in letters)} |")
    legend = "\n".join(f"- `{letter}`: {text}" for letter, text in LEGEND.items())
    head = HEAD.format(damages=", ".join(DAMAGES), legend=legend)
    table = [f"| file | {' | '.join(verbs)} |", "|---" * (len(verbs) + 1) + "|", *rows]
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + "\n".join(table) + "\n", encoding="utf-8")
    return [
        f"{kind} {damage} {verb}: {cell}"
        for (kind, damage), by_verb in cells.items()
        for verb, cell in by_verb.items()
        if cell.startswith(WRONG)
    ]


def call(*words: str) -> Said:
    """Return what a command gives in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code: int | None = cli.main(words)
        except BaseException:  # noqa: BLE001  (whatever it is, it is a cell of the table)
            code = None
            traceback.print_exc()
    return Said(code, out.getvalue())


def names(said: Said, path: Path) -> bool:
    """Return whether a text names a file of the run, and what to do."""
    return said.code is not None and str(path) in said.text and "rag-hpc " in said.text


def said_wrong(said: Said) -> str:
    """Return the cell of what should not be, with the text for whoever reads the test's failure."""
    return f"{WRONG} exit {said.code}: {said.text[-600:]}"


def content(path: Path) -> bytes | None:
    """Return a file's bytes, None where there is none."""
    return path.read_bytes() if path.exists() else None


def output_hashes(run_dir: Path) -> dict[str, bytes]:
    """Return what a run's manifests say, all of it."""
    return {path.parent.name: path.read_bytes() for path in sorted(run_dir.glob("*/manifest.json"))}
