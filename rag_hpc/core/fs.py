"""The few file-system steps that commits are made of, each durable when it returns.

Every call here is one `os` call after another, so a test can count them and kill the process at each.
Rename and create-exclusive are the only means of agreement between processes: file locks lie on Lustre and NFS.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces to spare, UTF-8, newline at the end."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return the JSON value stored at `path`."""
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
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_file(path: Path, data: bytes, *, overwrite: bool = False) -> bool:
    """Make `path` hold `data` in one step; return False, leaving it alone, if it exists and may not be replaced."""
    draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    write_durable(draft, data)
    try:
        if overwrite:
            os.rename(draft, path)
        else:
            os.link(draft, path)  # unlike rename, link refuses to replace a file
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    fsync_path(path.parent)
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
    """Remove a draft folder; a process still writing to it then fails instead of publishing it."""
    trash = path.with_name(f".trash-{path.name}")
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    except OSError:
        trash = path
    shutil.rmtree(trash, ignore_errors=True)
