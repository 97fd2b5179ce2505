"""Whose files a run's are: nothing that another account made, or could have changed, is read, entered or executed.

A run that its owner shares (`cluster.share=group`) has a folder of mode 2750. That mode is all there is to it: whoever
writes into the run goes by it, and whoever reads another's run says so.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from rag_hpc.errors import ConfigError

SHARED = 0o2750  # mode of a run's folder whose group may read it: setgid, so that all in it is the group's
WRITABLE = 0o022  # by its group, by others


def check_run(run_dir: Path, *, shared: bool = False) -> None:
    """Raise ConfigError unless the run belongs to us or root, and nobody else may write to what is read of it.

    Looked at: the folder, and the link that leads to it; run.json; each submission with its requests and plans; each
    stage's folder with its manifest. Units come later, with their hashes. A run that is not there is fine.
    `shared`: a run of another is fine too, when its folder's group is one of ours.
    """
    if not os.path.lexists(run_dir):
        return
    owners = _owners(run_dir, shared)
    for path in _parts(str(run_dir)):
        try:
            found = os.lstat(path)
            if found.st_uid not in owners or found.st_mode & WRITABLE:  # a link's mode says that all may write
                _refuse(path, found, owners, run_dir)
        except FileNotFoundError:  # a draft, renamed or removed by now
            continue


def is_ours(run_dir: Path, *, shared: bool = False) -> bool:
    """Return whether the run's folder is one that `check_run` would not refuse for its owner."""
    return os.lstat(run_dir).st_uid in _owners(run_dir, shared)


@contextlib.contextmanager
def private_files(run_dir: Path | None = None) -> Iterator[None]:
    """Make what is written meanwhile the owner's alone; with the folder of a shared run, its group's to read too."""
    mask = os.umask(umask_of(run_dir) if run_dir else 0o077)
    try:
        yield
    finally:
        os.umask(mask)


def umask_of(run_dir: Path) -> int:
    """Return the umask of whoever writes into a run's folder."""
    mode = run_dir.stat().st_mode if run_dir.exists() else 0
    return 0o027 if mode | 0o700 == mode | SHARED else 0o077


def account(uid: int) -> str:
    """Return the name of an account as people read it."""
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def _owners(run_dir: Path, shared: bool) -> set[int]:
    """Return the accounts whose files are taken."""
    owners = {os.geteuid(), 0}
    if shared:
        with contextlib.suppress(FileNotFoundError):
            found = run_dir.stat()
            owners |= {found.st_uid} if found.st_gid in (os.getegid(), *os.getgroups()) else set()
    return owners


def _parts(run_dir: str) -> Iterator[str]:
    """Yield what is read of a run before any hash is, each folder before what is in it."""
    yield run_dir
    yield from _walk(run_dir)
    with contextlib.suppress(FileNotFoundError):
        yield from _walk(f"{run_dir}/submissions")


def _walk(folder: str, deeper: bool = True) -> Iterator[str]:
    """Yield the folders and the JSON files of a folder, and those of its folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not (entry.is_dir() or entry.name.endswith((".json", ".jsonl"))):
                continue  # drafts and logs
            yield entry.path
            if deeper and entry.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    yield from _walk(entry.path, deeper=False)


def _refuse(path: str, found: os.stat_result, owners: set[int], run_dir: Path) -> None:
    """Raise ConfigError, unless the path is a link of ours to what is ours."""
    statuses = [found, Path(path).stat()] if stat.S_ISLNK(found.st_mode) else [found]
    for status in statuses:
        if status.st_uid not in owners:
            raise ConfigError(
                f"{path} belongs to {account(status.st_uid)}, not to you, {account(os.geteuid())}: what others have "
                "made is neither run nor read. Take another name, run=NAME, or a cluster.root of your own; to look at "
                "a run that its owner shares with your group, add cluster.share=group"
            )
    if statuses[-1].st_mode & WRITABLE:
        raise ConfigError(
            f"{path}, of {account(found.st_uid)}, can be written by its group or by others, who could then run code "
            f"as you, {account(os.geteuid())}; look through it, then run: chmod -R go-w {run_dir}"
        )
