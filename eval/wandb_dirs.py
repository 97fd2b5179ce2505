"""Offline folders of Weights & Biases, one an entry: written aside, then renamed into place, so that none is half done.

A folder keeps the digest of its entry. One with the same digest is left as it is, one with another is replaced: each
id has one folder, since of several the server keeps one (wandb #3841).
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import logging
import netrc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rag_hpc.core.fs import TRASH, drop_dir, naming_disk, publish_dir
from rag_hpc.core.hashing import hash_value
from rag_hpc.errors import ConfigError, IncompleteError, InputError, MissingDependency
from rag_hpc.eval.entries import Entry

log = logging.getLogger(__name__)
DIGEST = "rag-hpc.digest"  # a file in each folder
DRAFT = ".draft-"
REMEDY = "pip install 'rag-hpc[track]', or write the tables without it: rag-hpc publish RUN ... --out FOLDER"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Mode(Enum):
    """Whether entries are uploaded once they are written."""

    offline = "offline"
    online = "online"


@dataclass(kw_only=True)
class Tracking:
    """Settings of a tracker: conf/tracking/NAME.yaml."""

    name: str = "wandb"
    dir: str = "results/tracking"
    mode: Mode = Mode.offline
    project: str = "rag-hpc"
    entity: str = ""
    study: str = ""
    max_runs: int = 1000
    pause_s: float = 1.0
    upload_s: float = 600.0

    def __post_init__(self) -> None:
        if self.name != "wandb":
            raise ConfigError(
                f"tracking.name={self.name}: known is wandb; other trackers read: rag-hpc publish --out DIR"
            )
        if self.max_runs < 1:
            raise ConfigError(f"tracking.max_runs={self.max_runs}: at least 1, which is the report; try 1000")
        if not (self.pause_s >= 0 and self.upload_s > 0):
            raise ConfigError("tracking.pause_s and tracking.upload_s are seconds, the second above 0; try 1 and 600")
        if not self.project or any(sign in self.project for sign in "/\\#?%:\r\n"):
            raise ConfigError(f"tracking.project={self.project!r}: a name without / \\ # ? % : is needed")
        if "/" in self.study or self.study.startswith("."):
            raise ConfigError(f"tracking.study={self.study!r}: it names a file, so no slash, and no dot in front")


@dataclass(kw_only=True)
class Written:
    """What became of the entries, by id."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # there before, with the same content
    uploaded: list[str] = field(default_factory=list)


def load_wandb() -> Any:
    """Return the module. Raises MissingDependency."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise MissingDependency(f"tracking=wandb: wandb is not installed ({error}); {REMEDY}") from error


def check_key() -> None:
    """Raise ConfigError for an upload without a key, before anything is written."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(os.environ.get("NETRC")).authenticators(host):
            return
    raise ConfigError(
        f"tracking.mode=online: there is no key for {host}: give one to wandb login, or leave tracking.mode=offline "
        "and upload later, from where there is one: wandb sync FOLDER"
    )


def write(entries: Sequence[Entry], group: str, tracking: Tracking) -> Written:
    """Write those entries that are not there yet. Raises MissingDependency, and InputError where it may not write."""
    wandb, result = load_wandb(), Written()
    folder = Path(tracking.dir) / "wandb"
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        for entry in entries:
            digest = hash_value([entry.digest, group, tracking.project, tracking.entity])
            if _digest(_folders(folder, entry.id)) == digest:
                result.kept.append(entry.id)
                continue
            try:
                made = _draft(wandb, entry, group, folder, tracking)
            except wandb.Error as error:
                raise IncompleteError(f"{entry.name}: wandb: {error}; the same command goes on from there") from error
            (made / DIGEST).write_text(digest)
            _place(made, folder, entry)
            result.written.append(entry.id)
    return result


def upload(
    ids: Sequence[str],
    tracking: Tracking,
    *,
    run: Run = subprocess.run,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Upload the entries that were not, one after another, `pause_s` apart; return their ids.

    Raises IncompleteError with wandb's words for the first that fails: the same command goes on from there.
    """
    done: list[str] = []
    for entry_id in ids:
        (folder,) = _folders(Path(tracking.dir) / "wandb", entry_id)
        if any(folder.glob("*.synced")):
            continue
        if done:
            sleep(tracking.pause_s)
        argv = [sys.executable, "-m", "wandb", "sync", str(folder)]
        try:
            ended = run(
                argv, capture_output=True, text=True, timeout=tracking.upload_s, check=False, stdin=subprocess.DEVNULL
            )
            code, said = ended.returncode, (ended.stderr + ended.stdout).strip()
        except subprocess.TimeoutExpired:
            code, said = 124, f"no end after {tracking.upload_s:g} s (tracking.upload_s)"
        if code:
            raise IncompleteError(
                f"{folder}: wandb sync: {said[-400:]}. {len(done)} uploaded; the same command goes on with the others"
            )
        done.append(entry_id)
    return done


def _folders(folder: Path, entry_id: str) -> list[Path]:
    return sorted(folder.glob(f"offline-run-*-{entry_id}"))


def _digest(folders: list[Path]) -> str | None:
    """Return the digest of the one folder that there is, None otherwise."""
    try:
        return (folders[0] / DIGEST).read_text() if len(folders) == 1 else None
    except FileNotFoundError:
        return None


def _draft(wandb: Any, entry: Entry, group: str, folder: Path, tracking: Tracking) -> Path:
    """Return a draft folder that holds the entry as wandb writes it."""
    draft = folder / f"{DRAFT}{entry.id}-{os.uname().nodename}-{os.getpid()}"
    draft.mkdir(mode=0o700)
    run = wandb.init(
        id=entry.id,
        name=entry.name,
        group=group,
        job_type=entry.stage,
        project=tracking.project,
        entity=tracking.entity or None,
        config=entry.config,
        dir=str(draft),
        reinit="create_new",
        settings=_settings(wandb),
    )
    run.define_metric("p")
    run.define_metric("scaling/*", step_metric="p")
    run.define_metric("unit/*", step_metric="unit/ended_s")
    at = 0.0
    for row in entry.rows:
        at = max(at, row.get("unit/ended_s", 0.0))
        run.log({**row, "_timestamp": entry.began_unix + at})
    media = {
        name: wandb.Table(columns=list(rows[0]), data=[[*row.values()] for row in rows], allow_mixed_types=True)
        for name, rows in entry.tables.items()
    }
    for name, data in entry.pictures.items():
        path = draft / f"{name}.png"
        path.write_bytes(data)
        media[name] = wandb.Image(str(path))
    if media:
        run.log(media)
    run.summary.update(entry.summary)
    run.finish()
    made = Path(run.settings.sync_dir)
    for name in ("tmp", "logs"):
        shutil.rmtree(made / name, ignore_errors=True)
    return made


def _settings(wandb: Any) -> Any:
    """Return settings under which wandb tells nothing of this machine: the work was done on others."""
    return wandb.Settings(
        mode="offline",
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _place(made: Path, folder: Path, entry: Entry) -> None:
    """Rename a finished folder into place, and drop what stood there of the same id."""
    began = datetime.datetime.fromtimestamp(entry.began_unix, datetime.UTC)
    for old in _folders(folder, entry.id):
        drop_dir(old)
    publish_dir(made, folder / f"offline-run-{began:%Y%m%d_%H%M%S}-{entry.id}")
    drop_dir(next(parent for parent in made.parents if parent.name.startswith(DRAFT)))


def _sweep(folder: Path) -> None:
    """Drop drafts of commands of this machine that have ended, and what is left of removals."""
    for path in folder.iterdir():
        mine, _, pid = path.name.rpartition("-")
        ended = mine.endswith(f"-{os.uname().nodename}") and not Path(f"/proc/{pid}").exists()
        if path.name.startswith(TRASH) or (path.name.startswith(DRAFT) and ended):
            drop_dir(path)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn the refusal to write into the folder into an InputError that says what to do."""
    try:
        with naming_disk(folder):
            yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(
            f"{error.filename}: {error.strerror}; name one that you may write to: tracking.dir=FOLDER, or --out FOLDER"
        ) from error
