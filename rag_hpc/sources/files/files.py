"""Files as a source: HTML, Markdown, text, PDF and JSON Lines, plain or compressed, alone or in tar archives."""

from __future__ import annotations

import codecs
import io
import os
import re
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rag_hpc.algo.text.charset import declared_charset
from rag_hpc.errors import InputError
from rag_hpc.sources.base import ReadContext, RecordsConfig, SourceName
from rag_hpc.sources.files.compress import (
    CHUNK,
    ChunkReader,
    Line,
    TruncatedStream,
    iter_lines,
    read_capped,
    stream_chunks,
)
from rag_hpc.sources.files.jsonl import (
    BadRecord,
    Fields,
    check_fields,
    check_ids,
    field_names,
    parse_record,
    record_page,
)
from rag_hpc.sources.files.paths import (
    PathSource,
    corpus_root,
    file_item,
    follows,
    item_reject,
    planned_file,
    refused,
)
from rag_hpc.sources.files.pdf import PDF_TYPE, PdfError, pdf_text
from rag_hpc.stores.documents import PAGE_CHARS
from rag_hpc.stores.page import Page, Reject

DOC_TYPES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".pdf": PDF_TYPE,
}
PACKED = (".gz", ".bz2", ".zst")
RECORD_SUFFIXES = (".jsonl", ".ndjson")
KINDS = ".html .htm .xhtml .md .markdown .txt .pdf .jsonl .ndjson .tar (also .gz, .bz2, .zst)"
MAX_HEADER_BYTES = 1 << 18  # of a member of a tar archive; names and attributes of a bomb have no end
_FRONT_MATTER = re.compile(rb"\A---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_FRONT_TITLE = re.compile(rb"^title:(.*)$", re.MULTILINE)


class Kind(NamedTuple):
    """What a file name promises: "doc" (one page), "records" (a page a line) or "tar" (a page a member)."""

    form: str
    mime: str = ""
    packed: bool = False


@dataclass(kw_only=True)
class FilesConfig(RecordsConfig):
    """Settings of `corpus=files`."""

    source: SourceName = SourceName.files


class FilesSource(PathSource):
    """Pages in a file, a folder or the files of a glob; ids are paths relative to it, or the records' own ids."""

    def split(self, corpus: FilesConfig, shared: Path) -> list[dict[str, Any]]:
        """Return parts of `pages_per_unit` files or records, in the order of the sorted paths.

        JSONL lines and tar members are counted by streaming through them, at most `max_pages` in all. Raises
        ConfigError when the first record of all has no field of text, or when ids are those of a file only.
        """
        root, follow = corpus_root(corpus.path), follows(corpus)
        packer = _Packer(corpus.pages_per_unit)
        left = corpus.max_pages or None
        names = self.corpus_files(corpus, lambda name: kind_of(name) is not None, KINDS)
        records = (name for name in names if (kind := kind_of(name)) and kind.form == "records")
        first = next((root / name for name in records if not refused(root, name, follow=follow)), None)
        if first:
            _check_first_record(first, corpus)
        for name in names:
            item = file_item(root, name, follow=follow)
            count = 1
            offsets: dict[int, int] = {}
            if item_reject(item) is None:
                count, offsets = _count(root / name, corpus, packer, left)
            packer.add(item, count, offsets)
            if left is not None:
                left -= count
                if left == 0:
                    break
        parts = packer.parts()
        if not parts:
            raise InputError(f"corpus.path={corpus.path}: empty corpus, its files hold no record")
        items = (item for part in parts for item in part["items"] if item["start"] == 0 and item_reject(item) is None)
        check_ids(
            (item for item in items if _kind(item["path"]).form == "records"),
            lambda item: next(_read_records(root / item["path"], {**item, "stop": 1}, corpus), None),
        )
        return parts

    def read(self, part: dict[str, Any], corpus: FilesConfig, ctx: ReadContext) -> Iterator[Page | Reject]:
        """Yield the part's pages and rejects in file order. Raises InputError if a file vanished or changed."""
        root = corpus_root(corpus.path)
        for item in part["items"]:
            name = item["path"]
            if (reject := item_reject(item)) is not None:
                yield reject
                continue
            path = planned_file(root, item)
            form = _kind(name).form
            if form == "doc":
                yield _read_doc(path, name, corpus.max_page_bytes)
            elif form == "records":
                yield from _read_records(path, item, corpus)
            else:
                yield from _read_tar(path, item, corpus.max_page_bytes)


def kind_of(name: str) -> Kind | None:
    """Return what the file name promises, or None if it is none of KINDS."""
    plain = name.lower()
    packed = plain.endswith(PACKED)
    if packed:
        plain = plain.rpartition(".")[0]
    suffix = PurePosixPath(plain).suffix
    if suffix in DOC_TYPES:
        return Kind("doc", DOC_TYPES[suffix], packed)
    if suffix in RECORD_SUFFIXES:
        return Kind("records", "", packed)
    if suffix == ".tar" or (suffix == ".tgz" and not packed):
        return Kind("tar", "", packed)
    return None


class _Packer:
    """Fills parts with exactly `size` files or records each, the last one with the rest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.room = size
        self._parts: list[list[dict[str, Any]]] = [[]]

    def add(self, item: dict[str, Any], count: int, offsets: dict[int, int]) -> None:
        """Add the positions 0..count of a file; `offsets` holds bytes of the positions that begin a part."""
        start = 0
        while start < count:
            stop = min(count, start + self.room)
            where = {"offset": offsets[start]} if start in offsets else {}
            self._parts[-1].append({**item, "start": start, "stop": stop, **where})
            self.room -= stop - start
            start = stop
            if self.room == 0:
                self._parts.append([])
                self.room = self.size

    def parts(self) -> list[dict[str, Any]]:
        """Return the parts that hold something."""
        return [{"items": items} for items in self._parts if items]


def _kind(name: str) -> Kind:
    kind = kind_of(name)
    if kind is None:
        raise InputError(f"{name}: not one of {KINDS}; plan again")
    return kind


def _check_first_record(path: Path, corpus: FilesConfig) -> None:
    """Look for the text and id fields in a file's first record; a later one without text, or no record, is a reject."""
    try:
        with closing(stream_chunks(path)) as chunks:
            line = next(iter_lines(chunks, corpus.max_page_bytes), None)
        record = parse_record(line.data) if line and line.data and not line.cut else None
    except (BadRecord, OSError):  # the file's own rejects say so
        return
    if record is not None:
        check_fields(field_names(record), Fields.of(corpus), f"{path}, first record")


def _count(path: Path, corpus: FilesConfig, packer: _Packer, left: int | None) -> tuple[int, dict[int, int]]:
    """Return the number of positions in a file, at most `left`, and the offsets where a plain JSONL file is cut."""
    kind = _kind(path.name)
    if kind.form == "doc":
        return 1, {}
    if kind.form == "tar":
        with closing(_members(path, -1, 0)) as members:
            return sum(1 for _ in islice(members, left)), {}
    offsets: dict[int, int] = {}
    count = 0
    with closing(stream_chunks(path)) as chunks:
        for line in islice(iter_lines(chunks, corpus.max_page_bytes), left):
            if not kind.packed and (count - packer.room) % packer.size == 0:
                offsets[count] = line.offset
            count += 1
    return count, offsets


def _read_doc(path: Path, name: str, cap: int) -> Page | Reject:
    try:
        with closing(stream_chunks(path)) as chunks:
            body = read_capped(chunks, cap)
    except TruncatedStream as error:
        return Reject(id=name, reason=error.reason, detail=str(error))
    if body is None:
        return Reject(id=name, reason="too-large", detail=f"over {cap} bytes")
    return _doc(name, _kind(name).mime, body, cap)


def _doc(name: str, mime: str, body: bytes, cap: int) -> Page | Reject:
    meta: dict[str, Any] = {}
    if mime == PDF_TYPE:
        try:
            text, meta[PAGE_CHARS] = pdf_text(body, cap)
        except PdfError as error:
            return Reject(id=name, reason=error.reason, detail=error.detail)
        body, mime = text.encode(), "text/plain"
    if mime in ("text/html", "application/xhtml+xml"):
        return Page(doc_id=name, url="", body=body, content_type=mime, charset=declared_charset(body))
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return Reject(id=name, reason="not-utf8", detail=f"byte {error.start}: {error.reason}")
    title = ""
    if mime == "text/markdown":
        body, title = _without_front_matter(body)
    return Page(doc_id=name, url="", body=body, content_type=mime, charset="utf-8", title=title, meta=meta)


def _without_front_matter(body: bytes) -> tuple[bytes, str]:
    """Return a Markdown text without its YAML head, and the title that the head gives."""
    head = _FRONT_MATTER.match(body)
    if head is None:
        return body, ""
    found = _FRONT_TITLE.search(head[1])
    title = found[1].decode("utf-8").strip() if found else ""
    if len(title) > 1 and title[0] == title[-1] and title[0] in "\"'":
        title = title[1:-1].strip()
    return body[head.end() :], title


def _read_records(path: Path, item: dict[str, Any], corpus: FilesConfig) -> Iterator[Page | Reject]:
    fields = Fields.of(corpus)
    start, stop, offset = item["start"], item["stop"], item.get("offset")
    first = 0 if offset is None else start
    with closing(stream_chunks(path, offset or 0)) as chunks:
        lines = iter_lines(chunks, corpus.max_page_bytes)
        for position, line in enumerate(islice(lines, start - first, stop - first), start):
            yield from _record(line, f"{item['path']}#{position}", fields, corpus.max_page_bytes)


def _record(line: Line, position: str, fields: Fields, cap: int) -> Iterator[Page | Reject]:
    """Yield what one line gives; where the file is cut, its last record if that is whole, then one Reject."""
    if line.data is None and not line.cut:
        yield Reject(id=position, reason="too-large", detail=f"a line over {cap} bytes")
    elif line.data:
        try:
            yield record_page(line.data, fields, position)
        except BadRecord as error:
            if not line.cut:
                yield Reject(id=position, reason=error.reason, detail=error.detail)
    if line.cut:
        yield Reject(id=position, reason=line.cut.reason, detail=str(line.cut))


class _Member(NamedTuple):
    """A known file of an archive; the body is None if it is over the cap, sparse, or was not asked for."""

    name: str
    num_bytes: int
    body: bytes | None


def _read_tar(path: Path, item: dict[str, Any], cap: int) -> Iterator[Page | Reject]:
    with closing(_members(path, cap, item["start"])) as members:
        for member in islice(members, item["start"], item["stop"]):
            if isinstance(member, TruncatedStream):
                yield Reject(id=item["path"], reason=member.reason, detail=str(member))
            else:
                yield _member_page(member, f"{item['path']}/{member.name}", cap)


def _member_page(member: _Member, name: str, cap: int) -> Page | Reject:
    kind = _kind(member.name)
    if not _is_utf8(member.name):
        printable = os.fsencode(name).decode("utf-8", "backslashreplace")
        return Reject(id=printable, reason="bad-name", detail="the member's name is not UTF-8")
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return Reject(id=name, reason="bad-name", detail="the member's name leads out of the archive")
    if kind.form != "doc" or kind.packed:
        return Reject(id=name, reason="unsupported-member", detail="only plain pages are read inside an archive")
    if member.body is None:
        return Reject(id=name, reason="too-large", detail=f"{member.num_bytes} bytes, cap {cap}")
    return _doc(name, kind.mime, member.body, cap)


def _members(path: Path, cap: int, start: int) -> Generator[_Member | TruncatedStream, None, None]:
    """Yield the known files of an archive, with bodies from position `start`; at a cut, what is wrong, as the last.

    Every body is read to its end, so that counting and reading find the same number of members.
    """
    number = 0
    with closing(stream_chunks(path)) as chunks:
        reader = ChunkReader(chunks)
        reader.limit = MAX_HEADER_BYTES  # the first header is read when the archive is opened
        try:
            with tarfile.open(fileobj=io.BufferedReader(reader), mode="r|", tarinfo=_Header) as tar:
                while (info := _next_header(tar, reader)) is not None:
                    known = info.isfile() and kind_of(info.name) is not None
                    body = _member_body(tar, info, cap if known and number >= start else -1)
                    if known:
                        yield _Member(info.name, info.size, body)
                        number += 1
        except TruncatedStream as error:
            yield error
        except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: numbers no archive can hold
            yield TruncatedStream(f"damaged archive: {error}")


class _Header(tarfile.TarInfo):
    """A header whose damage is an error: tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Return the header in a block. Raises tarfile.ReadError when it is damaged."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error


def _next_header(tar: tarfile.TarFile, reader: ChunkReader) -> tarfile.TarInfo | None:
    reader.limit = reader.num_bytes + MAX_HEADER_BYTES
    info = tar.next()
    reader.limit = None
    tar.members.clear()  # type: ignore[attr-defined]  # or a million members fill the memory
    return info


def _member_body(tar: tarfile.TarFile, info: tarfile.TarInfo, cap: int) -> bytes | None:
    if not info.isfile() or info.issparse():
        return None
    member = tar.extractfile(info)
    if member is None:
        return b""
    if info.size <= cap:
        return member.read()
    while member.read(CHUNK):
        pass
    return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
