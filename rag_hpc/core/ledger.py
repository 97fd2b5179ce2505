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
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import canonical_json, naming_disk, publish_file
from rag_hpc.core.hashing import hash_file
from rag_hpc.core.origin import made_by
from rag_hpc.core.plan import plan_path
from rag_hpc.core.policy import Policy, take_policy
from rag_hpc.core.stored import check_members, read_object, sealed_json, typed
from rag_hpc.core.trust import SHARED, check_run, is_ours, private_files
from rag_hpc.errors import ConfigError, CorruptOutput, InputError

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
    policy: Policy = field(default_factory=Policy)
    resubmits: int = 0  # how many submissions in a row a gate made on its own
    reason: str = "run"
    submitted_unix: float = 0.0
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    run_json: str = ""  # SHA-256 of the run.json that it was made beside; not known of older ones

    @property
    def on_slurm(self) -> bool:
        """Whether Slurm runs it, and not this machine."""
        return bool(self.cluster.get("launcher") == "slurm")


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

    def create(self, config: dict[str, Any], *, share: bool = False) -> None:
        """Make the run's folder and store the config it was first asked for with; `share`: its group may read it.

        Raises ConfigError when another account made the folder first.
        """
        with naming_disk(self.run_dir):
            self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_run(self.run_dir)
        if share:
            self.run_dir.chmod(SHARED)
        made = {"run": self.name, "created_unix": round(time.time(), 3), "made_by": made_by()}
        value = {**made, "config": config}
        with private_files(self.run_dir):
            publish_file(self.run_json, sealed_json(value))

    @property
    def run_json(self) -> Path:
        """The file with the run's name, config, and when it was first asked for."""
        return self.run_dir / "run.json"

    def made(self) -> dict[str, Any]:
        """Return what run.json holds: run, config, created_unix, and made_by unless it is of before."""

        def checked(value: dict[str, Any]) -> dict[str, Any]:
            check_members(value, {"config": dict[str, Any], "created_unix": float})
            return value

        try:
            return read_object(self.run_json, self._anew(self.run_json), checked)
        except FileNotFoundError:
            raise InputError(f"{self.run_dir}: no run of this name; see: rag-hpc status") from None

    def config(self) -> dict[str, Any]:
        """Return the composed config of the run."""
        config: dict[str, Any] = self.made()["config"]
        return config

    def submissions(self) -> list[int]:
        """Return the numbers of the submissions so far, ascending."""
        folders = [path.parent.name for path in (self.run_dir / "submissions").glob("*/submission.json")]
        return sorted(int(name) for name in folders if name.isdigit())

    def folder(self, number: int) -> Path:
        """Return the folder of a submission."""
        return self.run_dir / "submissions" / f"{number:04d}"

    def submit(self, request: Request) -> Submission:
        """Store the request under the next free number and return it with that number."""
        number = (self.submissions() or [0])[-1] + 1
        while True:
            numbered = dataclasses.replace(
                request, number=number, submitted_unix=round(time.time(), 3), run_json=self._hash_of_run_json()
            )
            with naming_disk(self.run_dir), private_files(self.run_dir):
                self.folder(number).mkdir(parents=True, exist_ok=True, mode=0o750)
                if publish_file(self.folder(number) / "submission.json", sealed_json(dataclasses.asdict(numbered))):
                    return Submission(self, numbered)
            number += 1

    def request(self, number: int | None = None) -> Request:
        """Return a submission, the latest by default."""
        known = self.submissions()
        for path in sorted(self.run_dir.glob("submissions/*/*.plan.json")) if not known else ():
            raise CorruptOutput(f"{path.parent}/submission.json: it is gone; {self._anew(path.parent)}")
        if not known:
            raise InputError(f"{self.run_dir}: nothing was submitted yet; give the rag-hpc run command again")
        if number is not None and number not in known:
            raise InputError(f"{self.run_dir}: no submission {number}; known: {', '.join(map(str, known))}")
        number = number or known[-1]
        path = self.folder(number) / "submission.json"
        found = read_object(path, self._anew(path.parent), _request_of)
        beside = found.run_json in ("", self._hash_of_run_json()) or number < known[-1]  # a new one may have come since
        if found.number != number or not beside:
            self.made()  # which may itself be damaged, and says so
            raise CorruptOutput(
                f"{path}: not of this submission, or not made beside this {self.run_json}: one of them is another "
                f"run's; {self._anew(path.parent)}"
            )
        return found

    def _hash_of_run_json(self) -> str:
        return hash_file(self.run_json) if self.run_json.exists() else ""

    def _anew(self, damaged: Path) -> str:
        name = self.run_dir.name
        return f"remove {damaged} (what is committed stays) and give the rag-hpc run command again with run={name}"

    def submission(self, number: int | None = None) -> Submission:
        """Return a request in its ledger, the latest by default."""
        return Submission(self, self.request(number))

    def jobs(self, number: int | None = None) -> list[dict[str, Any]]:
        """Return the lines about jobs of a submission (all submissions when None), oldest first."""
        numbers = self.submissions() if number is None else [number]
        found = []
        for one in numbers:
            path = self.folder(one) / "jobs.jsonl"
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            for line in lines:
                try:
                    job = {"submission": one, "ids": [], "pids": [], **json.loads(line)}
                    check_members(job, {"stage": str, "kind": str, "ids": list[str], "pids": list[int]})
                    found.append(job)
                except (ValueError, TypeError, KeyError, RecursionError):
                    log.warning("%s: skipped a line that its writer did not finish: %.80s", path, line)
        return found


@dataclass(frozen=True)
class Submission:
    """A request under its number in the ledger of its run: all that launchers and gates go by."""

    ledger: Ledger
    request: Request

    @property
    def number(self) -> int:
        """The request's number."""
        return self.request.number

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.ledger.run_dir

    @property
    def folder(self) -> Path:
        """The submission's own folder."""
        return self.ledger.folder(self.number)

    def plan_path(self, stage: str) -> Path:
        """Return where the stage's plan lies (known before the plan is)."""
        return plan_path(self.run_dir, self.number, stage)

    def outcome_path(self, stage: str) -> Path:
        """Return the file in which a gate says how it ended: outcome (passed, resubmitted, stopped), reason, cause."""
        return self.folder / f"{stage}.outcome.json"

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Return what the gates have said so far, by stage."""
        found = {stage: self.outcome(stage) for stage in sorted({job["stage"] for job in self.jobs()})}
        return {stage: value for stage, value in found.items() if value is not None}

    def outcome(self, stage: str) -> dict[str, Any] | None:
        """Return what the gate of a stage has said, None when it has not."""

        def checked(value: dict[str, Any]) -> dict[str, Any]:
            value = {"reason": "", "exit_code": 1, **value}
            check_members(value, {"outcome": str, "reason": str, "exit_code": int})
            return value

        path = self.outcome_path(stage)
        try:
            return read_object(path, "remove it: it only notes how a gate ended", checked)
        except FileNotFoundError:
            return None

    def jobs(self) -> list[dict[str, Any]]:
        """Return the lines about its jobs, oldest first."""
        return self.ledger.jobs(self.number)

    def is_cancelled(self) -> bool:
        """Return whether a user has cancelled it."""
        return any(job["kind"] == "cancel" for job in self.jobs())

    def add_job(self, **values: Any) -> None:
        """Append a line about a job: stage, kind (workers or gate), ids."""
        line = canonical_json({**values, "unix": round(time.time(), 3)})
        path = self.folder / "jobs.jsonl"
        with naming_disk(path), private_files(self.run_dir), path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # the writer before was killed amid its line
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def _request_of(values: dict[str, Any]) -> Request:
    policy = take_policy(values)
    return typed(Request, {**values, "policy": policy})


def runs_root(cluster_root: str | None) -> Path:
    """Return the folder of runs: the site's, or results/runs of the current folder."""
    return Path(cluster_root).expanduser() if cluster_root else Path("results/runs")


def open_run(path: Path, *, shared: bool = False) -> Ledger:
    """Return the ledger of a run's folder, which need not be there yet: whoever goes by a run's files comes in here.

    Raises ConfigError for a run of another account, or one that others can write to. `shared`: see `check_run`.
    """
    check_run(path, shared=shared)
    return Ledger(path.resolve())


def find_run(root: Path, name: str | None, *, shared: bool = False) -> Ledger:
    """Return the run called `name`, or the one that was touched last. Raises InputError listing the known ones.

    Raises ConfigError as `open_run` does; where no name is given, runs of others are passed over.
    """
    known = sorted(known_runs(root, shared=shared), key=last_used)
    if name is None:
        if not known:
            raise InputError(f"no runs under {root.resolve()}; start one: rag-hpc run")
        return open_run(known[-1], shared=shared)
    path = Path(name) if "/" in name else root / name
    ledger = open_run(path, shared=shared)
    if (path / "submissions").is_dir() and not (path / "run.json").exists():
        raise InputError(f"{path / 'run.json'}: it is gone; give the rag-hpc run command again with run={path.name}")
    if not (path / "run.json").exists():
        names = ", ".join(p.name for p in known) or "none"
        raise ConfigError(f"no run {name!r} under {root.resolve()}; known: {names}")
    return ledger


def known_runs(root: Path, *, shared: bool = False) -> list[Path]:
    """Return the folders of the runs below `root`, without those of other accounts."""
    return [path.parent for path in sorted(root.glob("*/run.json")) if is_ours(path.parent, shared=shared)]


def run_handle(run_dir: Path) -> str:
    """Return what names a run on a command line: its name, or its folder where commands would not look for that."""
    if run_dir.resolve().parent == Path("results/runs").resolve():
        return run_dir.name
    return shlex.quote(str(run_dir.resolve()))


def mend(run_dir: Path) -> str:
    """Return what to do about a damaged file of a unit or stage."""
    return f"mend it: rag-hpc retry --files run={run_handle(run_dir)}"


def last_used(run_dir: Path) -> tuple[bool, float]:
    """Return what is greatest of the run that was used last; those that never came as far as a plan stand back."""
    folder = run_dir / "submissions"
    return any(folder.glob("*/*.plan.json")), (folder if folder.exists() else run_dir).stat().st_mtime
