"""Which files a corpus path names, whether they are still the ones that the plan saw, and caps over their pages."""

from __future__ import annotations

import errno
import fnmatch
import functools
import glob
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.base import PathConfig
from rag_hpc.sources.files.compress import open_file
from rag_hpc.stores.page import Page, Reject

Found = Page | Reject

_EDGE = 64 * 1024
SPECIAL = "special-file"
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


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


class PathSource:
    """A source that lies in files, and what its `split` passed over."""

    def __init__(self) -> None:
        self.passed_over: dict[str, int] = {}  # files of kinds that it does not read, by suffix

    def corpus_files(self, corpus: PathConfig, wanted: Callable[[str], bool], kinds: str) -> list[str]:
        """Return what the function `corpus_files` does, and count the files that are not wanted."""
        unwanted: list[Path] = []
        names = corpus_files(corpus, wanted, kinds, unwanted.append)
        self.passed_over = dict(sorted(Counter(path.suffix.lower() for path in unwanted).items()))
        return names


def corpus_files(
    corpus: PathConfig, wanted: Callable[[str], bool], kinds: str, pass_over: Callable[[Path], None] = lambda path: None
) -> list[str]:
    """Return the wanted files below `corpus_root(corpus.path)` as sorted relative POSIX paths.

    Among them are names that no file can be read under, `file_item` says why: folders that cannot be listed, links
    that lead out of the corpus or nowhere, pipes and the like. Hidden files and folders are left out, folders behind
    links are entered only when they are outside and `corpus.follow_links` is set. Raises ConfigError if nothing is at
    the path, InputError if nothing there is wanted.
    """
    pattern, root = corpus.path, corpus_root(corpus.path)
    path = Path(str(pattern)).expanduser()
    if path.is_dir():
        found = list(_walk(path, follow=corpus.follow_links))
    elif path.exists():
        found = [(path, True)]
    else:
        found = list(_matches(path, follow=corpus.follow_links))
        if not found:
            raise ConfigError(f"corpus.path={pattern}: nothing is there; name an existing file, folder or glob")
    names = []
    for place, is_file in found:
        if not is_file or wanted(place.name):
            names.append(place.relative_to(root).as_posix())
        else:
            pass_over(place)
    names.sort()
    if not names:
        raise InputError(f"corpus.path={pattern}: empty corpus, no {kinds} file among {len(found)} files")
    return names


def file_item(root: Path, name: str, *, follow: bool) -> dict[str, Any]:
    """Return {path, size, sha256}: the hash is over the first and last 64 KiB, so that a plan sees other content.

    What is no such file gives {path, reject, detail} (`item_reject`), a name that is not UTF-8 {path, bad_name} with
    the odd bytes escaped. Links out of `root` need `follow`. Raises InputError if a file cannot be read.
    """
    if not name.isascii():
        printable = os.fsencode(name).decode("utf-8", "backslashreplace")
        if printable != name:
            return {"path": printable, "bad_name": True}
    if refusal := refused(root, name, follow=follow):
        return {"path": name, "reject": refusal[0], "detail": refusal[1]}
    try:
        size, digest = _stamp(root / name)
    except _Special as error:
        return {"path": name, "reject": SPECIAL, "detail": str(error)}
    except OSError as error:
        raise InputError(
            f"{root / name}: cannot be read ({error.strerror}); make it readable, or move it out of corpus.path"
        ) from error
    return {"path": name, "size": size, "sha256": digest}


def refused(root: Path, name: str, *, follow: bool) -> tuple[str, str] | None:
    """Return the reason and detail of the Reject for a name that no file of the corpus can be read under, else None."""
    path, is_link = root / name, False
    try:
        is_link = path.is_symlink()
        real = os.path.realpath(path) if is_link else f"{_real_folder(path.parent)}/{path.name}"
        if not follow and not _is_inside(real, root):
            return "outside-corpus", f"it is at {real}; corpus.follow_links=true reads what links lead to"
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "name-too-long", f"{len(os.fsencode(path))} bytes"
        return ("broken-link", str(error.strerror)) if is_link and error.errno in _NOWHERE else None
    if stat.S_ISDIR(mode):
        return "unreadable-folder", "its permissions do not let it be listed"
    return None if stat.S_ISREG(mode) else (SPECIAL, "a pipe, socket or device")


def item_reject(item: dict[str, Any]) -> Reject | None:
    """Return the Reject of a planned name without a file, None for a file."""
    if "bad_name" in item:
        return Reject(id=item["path"], reason="bad-name", detail="the file name is not UTF-8")
    return Reject(id=item["path"], reason=item["reject"], detail=item["detail"]) if "reject" in item else None


def follows(corpus: PathConfig) -> bool:
    """Return whether links out of the corpus are read: those that `corpus.path` itself names are."""
    named = Path(str(corpus.path)).expanduser()
    return corpus.follow_links or (named.exists() and not named.is_dir())


def planned_file(root: Path, item: dict[str, Any]) -> Path:
    """Return the path of a planned file. Raises InputError if it vanished or changed since it was planned."""
    path = root / str(item["path"])
    try:
        now = _stamp(path)
    except (OSError, _Special) as error:
        raise InputError(f"{path}: planned, but it cannot be read now ({error}); restore it or plan again") from error
    if now != (item["size"], item["sha256"]):
        raise InputError(f"{path}: changed since the plan was made ({item['size']} -> {now[0]} bytes); plan again")
    return path


def cap_parts(
    parts: list[dict[str, Any]], max_pages: int, read: Callable[[dict[str, Any]], Generator[Found, None, None]]
) -> list[dict[str, Any]]:
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


def _walk(root: Path, *, follow: bool, hidden: bool = False) -> Iterator[tuple[Path, bool]]:
    """Yield what is below a folder: (path, True) for what is no folder, (path, False) for a folder that is not entered.

    Without recursion, for folders may be nested without end.
    """
    left, entered = [root], {_real_folder(root)}
    while left:
        folder = left.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if folder == root:
                raise InputError(f"{root}: cannot be listed ({error.strerror}); make it readable") from error
            yield folder, False
            continue
        for entry in found:
            path = folder / entry.name
            if entry.name.startswith(".") and not hidden:
                continue
            if entry.is_dir(follow_symlinks=False):
                left.append(path)
            elif not (entry.is_symlink() and path.is_dir()):
                yield path, True
            elif not _is_inside(real := os.path.realpath(path), root):
                if not follow:
                    yield path, False
                elif real not in entered:
                    entered.add(real)
                    left.append(path)


def _matches(pattern: Path, *, follow: bool) -> Iterator[tuple[Path, bool]]:
    """Yield what a glob names, as `_walk` does: the standard library's is recursive, and follows links in circles."""
    stars = pattern.parts.index("**") if "**" in pattern.parts else len(pattern.parts)
    wanted = pattern.parts[stars:]
    for name in glob.glob(str(Path(*pattern.parts[:stars]))):  # noqa: PTH207
        base = Path(name)
        if not wanted:
            if not base.is_dir():
                yield base, True
        elif base.is_dir():
            for path, is_file in _walk(base, follow=follow, hidden=True):
                names = path.relative_to(base).parts
                if _fits(names, wanted) if is_file else not any(name.startswith(".") for name in names):
                    yield path, is_file


def _fits(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Return whether a path fits a glob: `**` is any number of folders, only a dot fits a hidden name's dot."""

    def with_none(steps: set[int]) -> set[int]:
        """Add the patterns that are reached when `**` is no folder."""
        for step, pattern in enumerate(patterns):
            if step in steps and pattern == "**":
                steps.add(step + 1)
        return steps

    steps = with_none({0})  # how many patterns the names up to here fit
    for name in names:
        fitting = [at for at in steps if at < len(patterns) and name.startswith(".") <= patterns[at].startswith(".")]
        steps = with_none(
            {at if patterns[at] == "**" else at + 1 for at in fitting if fnmatch.fnmatchcase(name, patterns[at])}
        )
    return len(patterns) in steps


@functools.lru_cache(maxsize=1 << 12)
def _real_folder(path: Path) -> str:
    return os.path.realpath(path).rstrip("/")


def _is_inside(real: str, root: Path) -> bool:
    return f"{real}/".startswith(f"{_real_folder(root)}/")


class _Special(Exception):
    """A file of /proc and its like, whose size does not tell what is in it."""


def _stamp(path: Path) -> tuple[int, str]:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_EDGE)
        if head is None or len(head) != min(size, _EDGE):  # None: there is nothing now, and a read would wait
            raise _Special(f"it holds more or less than the {size} bytes that are its size")
        digest = hashlib.sha256(head)
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            digest.update(file.read(_EDGE))
    return size, digest.hexdigest()[:32]
