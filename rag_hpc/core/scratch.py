"""Node-local scratch: a folder for each worker, and none that a killed worker left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rag_hpc.core.fs import naming_disk
from rag_hpc.core.job import JobEnv

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe of anybody's would be waited for


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty node-local folder and remove it afterwards, and before it what workers killed on this host left.

    A worker holds a lock on its folder, which ends with the process, however that ends.
    """
    base = JobEnv.from_env().scratch or os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    root = Path(base if base and Path(base).is_dir() else tempfile.gettempdir())
    prefix = f"rag-hpc-scratch-{socket.gethostname()}-"  # locks on a shared file system may be of one host only
    with naming_disk(root):
        folder, lock = _own(root, prefix)
    try:
        with contextlib.suppress(OSError):  # a folder that may not be listed
            _remove_left(root, prefix)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _own(root: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        with contextlib.suppress(FileNotFoundError):  # taken for a left one before it was locked
            lock = os.open(folder, FOLDER)
            if _locked(lock) is not False and folder.exists():
                return folder, lock
            os.close(lock)


def _remove_left(root: Path, prefix: str) -> None:
    for entry in root.iterdir():
        if entry.name.startswith(prefix):
            with contextlib.suppress(OSError):  # gone by now, another user's, or no folder
                lock = os.open(entry, FOLDER)
                try:
                    if os.fstat(lock).st_uid == os.geteuid() and _locked(lock):
                        shutil.rmtree(entry, ignore_errors=True)
                finally:
                    os.close(lock)


def _locked(descriptor: int) -> bool | None:
    """Return whether the folder is locked by this call, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
