"""Common Crawl path lists as a source: archives listed in warc.paths.gz (or wet., wat.), here or over HTTP.

The lists: https://commoncrawl.org/get-started. An archive is streamed; nothing of it is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from rag_hpc.core.settings import bounded
from rag_hpc.errors import ConfigError, InputError
from rag_hpc.sources.archives.download import Refused, Remote, Waits
from rag_hpc.sources.archives.warc import Archive, is_archive, read_archive, read_file
from rag_hpc.sources.base import FetchConfig, PathConfig, ReadContext, SourceName
from rag_hpc.sources.crawl.site import check_user_agent
from rag_hpc.sources.files.compress import ChunkReader, Line, iter_lines, stream_chunks, unpacked
from rag_hpc.sources.files.paths import file_item, take_pages
from rag_hpc.stores.page import Page, Reject

MAX_PATH_BYTES = 4096
MAX_ARCHIVE_BYTES = 32 << 30  # of a download


@dataclass(kw_only=True)
class CommonCrawlConfig(FetchConfig, PathConfig):
    """Settings of `corpus=commoncrawl`."""

    source: SourceName = SourceName.commoncrawl
    base: str | None = None  # where the listed archives are
    sample: float = bounded(1.0, 1e-9, 1)  # share of the archives; a smaller sample is part of a larger one
    max_archives: int = bounded(0, 0)  # 0 = no cap


class CommonCrawlSource:
    """Pages of the listed archives, as the warc source reads them."""

    def split(self, corpus: CommonCrawlConfig, shared: Path) -> list[dict[str, Any]]:
        """Return one part per archive in the order of the list; `max_pages` is spread evenly over them.

        Raises ConfigError for a local archive that is not there, InputError for a bad line of the list.
        """
        folder = _folder(corpus.base)
        if folder is None:
            check_user_agent(corpus.user_agent, [urlsplit(str(corpus.base)).netloc])
        names = [name for name in _listed(corpus.path) if _share(name) < corpus.sample]
        names = names[: corpus.max_archives or None]
        if not names:
            raise InputError(f"corpus.path={corpus.path}: no archive is left of the list; raise corpus.sample")
        if folder is None and any(name.lower().endswith(".lz4") for name in names):
            raise ConfigError("corpus.base: .lz4 archives are read from a folder only; download them first")
        parts = [{"path": name} if folder is None else _local(folder, name, corpus.follow_links) for name in names]
        base, rest = divmod(corpus.max_pages, len(parts))
        shares = [base + (number < rest) for number in range(len(parts))]
        return [
            {**part, "max_pages": share}
            for part, share in zip(parts, shares, strict=True)
            if share or not corpus.max_pages
        ]

    def read(self, part: dict[str, Any], corpus: CommonCrawlConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the archive's pages and rejects; one that the server does not have is a Reject.

        Raises InputError if the server cannot be reached, so that the unit is tried again.
        """
        folder = _folder(corpus.base)
        if folder is not None:
            found = read_file(folder, part, corpus.max_page_bytes)
        else:
            remote = Remote(str(corpus.base), corpus, Waits(sleep=ctx.sleep, should_stop=ctx.should_stop))
            archive = Archive(name=part["path"], open=partial(_download, remote, str(corpus.base), part["path"]))
            found = read_archive(archive, corpus.max_page_bytes)
        with closing(found):
            try:
                yield from take_pages(found, part["max_pages"])
            except Refused as error:
                yield Reject(id=part["path"], reason=error.reason, detail=error.detail)


def _folder(base: str | None) -> Path | None:
    """Return the folder that the base names, None if it is an http(s) URL."""
    parts = urlsplit(base or "")
    if parts.scheme in ("http", "https") and parts.hostname:
        return None
    path = Path(parts.path if parts.scheme == "file" else base or "")
    if not path.is_absolute() or parts.netloc:
        raise ConfigError(
            f"corpus.base={base}: where the listed archives are is needed, https://data.commoncrawl.org/ "
            "or file:///folder/"
        )
    return path


def _listed(path: str | None) -> list[str]:
    if not path:
        raise ConfigError("corpus.path is not set: name a list of archives, corpus.path=warc.paths.gz")
    names: dict[str, None] = {}
    try:
        with closing(stream_chunks(Path(path).expanduser())) as chunks:
            for number, line in enumerate(iter_lines(chunks, MAX_PATH_BYTES), start=1):
                names[_archive_name(line, f"{path}: line {number}")] = None
    except OSError as error:
        raise ConfigError(f"corpus.path={path}: cannot be read ({error}); name a list such as warc.paths.gz") from error
    return list(names)


def _archive_name(line: Line, place: str) -> str:
    if line.cut:
        raise InputError(f"{place}: {line.cut}; fetch the list again")
    name = (line.data or b"").decode("utf-8", "replace").strip()
    if not name.isprintable() or name.startswith("/") or ".." in PurePosixPath(name).parts or not is_archive(name):
        raise InputError(f"{place}: {name[:200]!r} is no path of an archive below corpus.base (.warc.gz, .warc.wet.gz)")
    return name


def _share(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only: smaller samples are parts of larger ones."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2.0**48


def _local(folder: Path, name: str, follow: bool) -> dict[str, Any]:
    try:
        return file_item(folder, name, follow=follow)
    except InputError as error:
        raise ConfigError(
            f"{folder / name}: listed, but cannot be read ({error.__cause__}); fetch it, or list less"
        ) from error


def _download(remote: Remote, base: str, name: str) -> ChunkReader:
    target = f"{urlsplit(base).path.rstrip('/')}/{quote(name)}"
    return ChunkReader(unpacked(remote.stream(target, MAX_ARCHIVE_BYTES), PurePosixPath(name).suffix))
