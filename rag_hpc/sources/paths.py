"""Which files a corpus path names, whether they are still the ones that the plan saw, and caps over their pages."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import Page, Reject

Found = Page | Reject

_EDGE = 64 * 1024


def corpus_root(pattern: str | None) -> Path:
    """Return the folder that ids are relative to: the folder named, a file's folder, or a glob's fixed part."""
    if not pattern:
        raise ConfigError("corpus.path is not set: name a file, a folder or a glob, corpus.path=/data/docs")
    path = Path(pattern).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not glob.has_magic(pattern):
        return path.parent
    fixed = []
    for piece in path.parts[:-1]:
        if glob.has_magic(piece):
            break
        fixed.append(piece)
    return Path(*fixed)


def corpus_files(pattern: str | None, wanted: Callable[[str], bool], kinds: str) -> list[str]:
    """Return the wanted files below `corpus_root(pattern)` as sorted relative POSIX paths.

    Hidden files and folders are left out, folders behind links are not entered. Raises ConfigError if nothing is at
    the path, InputError if nothing there is wanted.
    """
    root = corpus_root(pattern)
    path = Path(str(pattern)).expanduser()
    if path.is_dir():
        found = list(_walk(path))
    elif path.exists():
        found = [path]
    else:
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        found = [match for match in matches if match.is_file()]
        if not found:
            raise ConfigError(f"corpus.path={pattern}: nothing is there; name an existing file, folder or glob")
    names = sorted(file.relative_to(root).as_posix() for file in found if wanted(file.name))
    if not names:
        raise InputError(f"corpus.path={pattern}: empty corpus, no {kinds} file among {len(found)} files")
    return names


def file_item(root: Path, name: str) -> dict[str, Any]:
    """Return {path, size, sha256}: the hash is over the first and last 64 KiB, so that a plan sees other content.

    A name that is not UTF-8 gives {path, bad_name} with the odd bytes escaped. Raises InputError if it cannot be read.
    """
    if not name.isascii():
        printable = os.fsencode(name).decode("utf-8", "backslashreplace")
        if printable != name:
            return {"path": printable, "bad_name": True}
    try:
        size, digest = _stamp(root / name)
    except OSError as error:
        raise InputError(f"{root / name}: cannot be read ({error.strerror}); make it readable, or move it out of "
                         "corpus.path") from error
    return {"path": name, "size": size, "sha256": digest}


def planned_file(root: Path, item: dict[str, Any]) -> Path:
    """Return the path of a planned file. Raises InputError if it vanished or changed since it was planned."""
    path = root / str(item["path"])
    try:
        now = _stamp(path)
    except OSError as error:
        raise InputError(f"{path}: planned, but it cannot be read now ({error}); restore it or plan again") from error
    if now != (item["size"], item["sha256"]):
        raise InputError(f"{path}: changed since the plan was made ({item['size']} -> {now[0]} bytes); plan again")
    return path


def cap_parts(parts: list[dict[str, Any]], max_pages: int,
              read: Callable[[dict[str, Any]], Generator[Found, None, None]]) -> list[dict[str, Any]]:
    """Return the parts up to `max_pages` pages (0 = all), each with its share as "max_pages" (0 = all of it).

    Only under a cap are parts read, as many as it takes.
    """
    if not max_pages:
        return [{**part, "max_pages": 0} for part in parts]
    capped = []
    left = max_pages
    for part in parts:
        with closing(read(part)) as found:
            share = sum(isinstance(item, Page) for item in take_pages(found, left))
        capped.append({**part, "max_pages": share if share == left else 0})
        left -= share
        if left == 0:
            break
    return capped


def take_pages(found: Iterable[Found], max_pages: int) -> Iterator[Found]:
    """Yield all items up to the page number `max_pages`; 0 = all."""
    num_pages = 0
    for item in found:
        yield item
        num_pages += isinstance(item, Page)
        if max_pages and num_pages == max_pages:
            return


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _stamp(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(file.read(_EDGE))
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            digest.update(file.read(_EDGE))
    return size, digest.hexdigest()[:32]
