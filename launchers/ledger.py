"""The ledger: what was submitted and how far it is, in files only. Any process can pick a run up from here.

    RUN/run.json                          the run's name and composed config
    RUN/submissions/0001/submission.json  what one submission asked for; written once
    RUN/submissions/0001/STAGE.plan.json  the plan of each stage, written when its inputs exist
    RUN/submissions/0001/jobs.jsonl       scheduler ids, appended as they become known
    RUN/submissions/0001/STAGE.log        workers' logs, packed into one file when the stage ends
    RUN/submissions/0001/STAGE.outcome.json   how the stage's gate ended (Slurm only); gates.log holds their logs
    RUN/STAGE-FINGERPRINT/                units/, failures/, manifest.json
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, naming_disk, publish_file, read_json
from rag_hpc.core.plan import last_used, run_handle
from rag_hpc.errors import ConfigError, InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One submission, complete: a gate needs nothing else to go on."""

    run: str
    number: int
    stages: list[str]
    settings: dict[str, dict[str, Any]]  # stage -> its whole config
    workers: int
    cluster: dict[str, Any]
    max_attempts: int = 3
    allow_failed_units: int = 0
    backup_after_s: float = 60.0
    resubmits: int = 0  # how many submissions in a row a gate made on its own
    reason: str = "run"
    submitted_unix: float = 0.0
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The files of one run."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run_dir.name

    @property
    def handle(self) -> str:
        """What names the run on a command line: its name, or its folder when that is not in results/runs here."""
        return run_handle(self.run_dir)

    def create(self, config: dict[str, Any]) -> None:
        """Make the run's folder and store the config it was first asked for with."""
        with naming_disk(self.run_dir):
            self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        value = {"run": self.name, "config": config, "created_unix": round(time.time(), 3)}
        publish_file(self.run_dir / "run.json", canonical_json(value))

    def config(self) -> dict[str, Any]:
        """Return the composed config of the run."""
        try:
            config: dict[str, Any] = read_json(self.run_dir / "run.json")["config"]
        except FileNotFoundError:
            raise InputError(f"{self.run_dir}: no run of this name; see: rag-hpc status") from None
        return config

    def submissions(self) -> list[int]:
        """Return the numbers of the submissions so far, ascending."""
        folders = [path.parent.name for path in (self.run_dir / "submissions").glob("*/submission.json")]
        return sorted(int(name) for name in folders if name.isdigit())

    def folder(self, number: int) -> Path:
        """Return the folder of a submission."""
        return self.run_dir / "submissions" / f"{number:04d}"

    def outcome_path(self, number: int, stage: str) -> Path:
        """Return the file in which a gate says how it ended: outcome (passed, resubmitted, stopped), reason, cause."""
        return self.folder(number) / f"{stage}.outcome.json"

    def outcomes(self, number: int) -> dict[str, dict[str, Any]]:
        """Return what the gates of a submission have said so far, by stage."""
        stages = {job["stage"] for job in self.jobs(number)}
        paths = {stage: self.outcome_path(number, stage) for stage in sorted(stages)}
        return {stage: read_json(path) for stage, path in paths.items() if path.exists()}

    def submit(self, request: Request) -> Request:
        """Store the request under the next free number and return it with that number."""
        number = (self.submissions() or [0])[-1] + 1
        while True:
            numbered = dataclasses.replace(request, number=number, submitted_unix=round(time.time(), 3))
            with naming_disk(self.run_dir):
                self.folder(number).mkdir(parents=True, exist_ok=True, mode=0o700)
            if publish_file(self.folder(number) / "submission.json", canonical_json(dataclasses.asdict(numbered))):
                return numbered
            number += 1

    def request(self, number: int | None = None) -> Request:
        """Return a submission, the latest by default."""
        known = self.submissions()
        if not known:
            raise InputError(f"{self.run_dir}: nothing was submitted yet; give the rag-hpc run command again")
        if number is not None and number not in known:
            raise InputError(f"{self.run_dir}: no submission {number}; known: {', '.join(map(str, known))}")
        return Request(**read_json(self.folder(number or known[-1]) / "submission.json"))

    def add_job(self, number: int, **values: Any) -> None:
        """Append a line about a job: stage, kind (workers or gate), ids."""
        line = canonical_json({**values, "unix": round(time.time(), 3)})
        path = self.folder(number) / "jobs.jsonl"
        with naming_disk(path), path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # the writer before was killed amid its line
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def jobs(self, number: int | None = None) -> list[dict[str, Any]]:
        """Return the lines about jobs of a submission (all submissions when None), oldest first."""
        numbers = self.submissions() if number is None else [number]
        found = []
        for one in numbers:
            path = self.folder(one) / "jobs.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                try:
                    found.append({"submission": one, **json.loads(line)})
                except ValueError:
                    log.warning("%s: skipped a line that its writer did not finish: %.80s", path, line)
        return found


def runs_root(cluster_root: str | None) -> Path:
    """Return the folder of runs: the site's, or results/runs of the current folder."""
    return Path(cluster_root).expanduser() if cluster_root else Path("results/runs")


def find_run(root: Path, name: str | None) -> Ledger:
    """Return the run called `name`, or the one that was touched last. Raises InputError listing the known ones."""
    known = sorted((p.parent for p in root.glob("*/run.json")), key=last_used)
    if name is None:
        if not known:
            raise InputError(f"no runs under {root.resolve()}; start one: rag-hpc run")
        return Ledger(known[-1].resolve())
    path = Path(name) if "/" in name else root / name
    if not (path / "run.json").exists():
        names = ", ".join(p.name for p in known) or "none"
        raise ConfigError(f"no run {name!r} under {root.resolve()}; known: {names}")
    return Ledger(path.resolve())
