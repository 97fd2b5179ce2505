"""The few file-system steps that commits are made of, each durable when it returns.

Every call here is one `os` call after another, so a test can count them and kill the process at each.
Rename and create-exclusive are the only means of agreement between processes: file locks lie on Lustre and NFS.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_hpc.errors import DiskError

TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
TRASH = ".trash-"
DISK = {
    errno.ENOSPC: "no space (or no inodes) left",
    errno.EDQUOT: "the quota is used up",
    errno.EIO: "the device or server reports an input/output error",
    errno.EROFS: "it is mounted read-only",
}


@contextlib.contextmanager
def naming_disk(path: Path) -> Iterator[None]:
    """Turn the OSError of a full or failing disk into a DiskError that names it; let all else pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        named = isinstance(error.filename, str) and os.path.isabs(error.filename)  # noqa: PTH117  else inside `path`
        at = Path(error.filename) if named else path.absolute()
        mount = next(folder for folder in (at, *at.parents) if os.path.ismount(folder))
        raise DiskError(
            f"{at}: the filesystem at {mount}: {DISK[error.errno]} ({error}). See `df -h {mount}`, `df -i {mount}` "
            "and your quota, make room, then run: rag-hpc retry"
        ) from error


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces to spare, UTF-8, newline at the end.

    A lone surrogate (a file name that is not UTF-8 holds them) becomes its JSON escape.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
    return text.encode("utf-8", "backslashreplace")


def read_json(path: Path) -> Any:
    """Return the JSON value at `path`, a file that a manifest has vouched for; others are read by `core.stored`."""
    return json.loads(path.read_bytes())


def fsync_path(path: Path) -> None:
    """Flush a file's data, or a folder's entries, to stable storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write `data` to `path` in place and fsync it; FileExistsError if `exclusive` and it is there already."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
    descriptor = os.open(path, flags, 0o640)  # less the umask
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_file(path: Path, data: bytes, *, overwrite: bool = False) -> bool:
    """Make `path` hold `data` in one step; return False, leaving it alone, if it exists and may not be replaced."""
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{threading.get_native_id()}")
    with naming_disk(path):
        draft.unlink(missing_ok=True)  # after a crash it may be a second name of `path`: never write into it
        try:
            write_durable(draft, data, exclusive=True)
            published = _take_name(draft, path, overwrite)
        finally:
            draft.unlink(missing_ok=True)
        if published:
            fsync_path(path.parent)
    return published


def _take_name(draft: Path, path: Path, overwrite: bool) -> bool:
    if overwrite:
        os.rename(draft, path)
        return True
    try:
        os.link(draft, path)  # unlike rename, link refuses to replace a file
    except FileExistsError:
        return False
    return True


def publish_dir(draft: Path, target: Path) -> bool:
    """Rename the complete folder `draft` to `target`; return False, and drop the draft, if another was first."""
    fsync_path(draft)
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        drop_dir(draft)
        return False
    fsync_path(target.parent)
    return True


def drop_dir(path: Path) -> None:
    """Remove a draft folder; a process still writing to it then fails instead of publishing it.

    It is renamed away first and emptied then: emptied in place, its owner could still publish what is left of it.
    """
    trash = path if path.name.startswith(TRASH) else _move_aside(path)
    if trash is not None:
        shutil.rmtree(trash, ignore_errors=True)


def _move_aside(path: Path) -> Path | None:
    number = 0
    while True:
        trash = path.with_name(f"{TRASH}{path.name}.{number}")
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            number += 1  # the remains of a removal that was killed
        else:
            return trash
