"""Replies of a crawl on disk, so that a later attempt asks no URL again.

One append-only file an attempt; a record is a fixed head (lengths, checksum), JSON, and the body as it is (to pack and
unpack it would be a fifth of a crawl's work, for a file that goes when the unit is committed). The kernel has each
record before the crawl goes on, so a killed process loses nothing; what a crashed machine lost or tore shows by the
checksum, and the rest of that file is ignored.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rag_hpc.algo.text.headers import HTML_TYPES, media_type

log = logging.getLogger(__name__)
PAGE_TYPES = (*HTML_TYPES, "text/plain", "text/markdown")
_HEAD = struct.Struct("<4sIII")  # magic, bytes of JSON, bytes of body, CRC-32 of both
_MAGIC = b"rpl2"
_FIELDS = (
    "url",
    "status",
    "content_type",
    "location",
    "etag",
    "last_modified",
    "error",
    "detail",
    "reused",
    "fetched_unix",
)


class _Ref(NamedTuple):
    """Where a record lies."""

    file: int
    start: int
    json_bytes: int
    body_bytes: int


@dataclass(frozen=True)
class Ask:
    """One request that a crawl wants made."""

    kind: str  # "page", "robots" or "sitemap"; only of pages the media type matters
    url: str  # normalised, of the host
    max_bytes: int  # decoded

    @property
    def key(self) -> str:
        """Return the name of the request in a journal."""
        return f"{self.kind} {self.url}"


@dataclass(kw_only=True)
class Reply:
    """What came of one request; the body is decoded, and empty unless the status is 200 and the type was wanted."""

    url: str
    status: int = 0  # 0: no reply that could be used; `error` is the slug of a Reject, `detail` says more
    content_type: str = ""  # as sent, with parameters
    location: str = ""  # where a redirect leads; of a page, its Refresh field
    etag: str = ""
    last_modified: str = ""
    error: str = ""
    detail: str = ""
    reused: bool = False  # not modified: the body is that of an earlier run
    fetched_unix: float = 0.0
    body: bytes = b""
    retry_after_s: float | None = None  # not kept

    @property
    def mime(self) -> str:
        """Return the bare media type in lower case."""
        return media_type(self.content_type)


class Journal:
    """The replies of all attempts by key; those of earlier attempts are found as if they had just come.

    Without an attempt's name nobody else sees the file, and it is gone once it is closed.
    """

    def __init__(self, folder: Path | None, attempt: str | None) -> None:
        self._refs: dict[str, _Ref] = {}
        self._files: list[int] = []
        self._end = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder is None or attempt is None:
            descriptor, name = tempfile.mkstemp(prefix=".rag-hpc-crawl-", dir=folder)
            Path(name).unlink()
        else:
            for path in sorted(folder.glob("*.journal")):
                self._read(path)
            path = folder / f"{attempt}-{len(self._files)}.journal"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._own = len(self._files)
        self.resumed = self._own > 0  # an earlier attempt may just have asked any host
        self._files.append(descriptor)

    def __len__(self) -> int:
        return len(self._refs)

    def __contains__(self, key: str) -> bool:
        return key in self._refs

    def add(self, key: str, reply: Reply) -> None:
        """Append a reply; the first one under a key stays."""
        text = json.dumps([key, *(getattr(reply, name) for name in _FIELDS)]).encode()
        checksum = zlib.crc32(reply.body, zlib.crc32(text))
        record = b"".join((_HEAD.pack(_MAGIC, len(text), len(reply.body), checksum), text, reply.body))
        ref = _Ref(self._own, self._end, len(text), len(reply.body))
        view = memoryview(record)
        while view:
            view = view[os.write(self._files[self._own], view) :]
        self._end += len(record)
        self._refs.setdefault(key, ref)

    def get(self, key: str) -> Reply:
        """Return the reply under `key`; KeyError if there is none."""
        ref = self._refs[key]
        start = ref.start + _HEAD.size
        data = os.pread(self._files[ref.file], ref.json_bytes + ref.body_bytes, start)
        values = json.loads(data[: ref.json_bytes])[1:]
        return Reply(**dict(zip(_FIELDS, values, strict=True)), body=data[ref.json_bytes :])

    def close(self) -> None:
        """Close the files; they stay where they are."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()

    def _read(self, path: Path) -> None:
        """Learn what an earlier attempt wrote, up to the first record that is not whole."""
        number = len(self._files)
        self._files.append(os.open(path, os.O_RDONLY))
        size = path.stat().st_size
        with path.open("rb") as stream:
            while (found := _record(stream, number, size)) is not None:
                key, ref = found
                self._refs.setdefault(key, ref)
            whole = stream.tell()
        if whole < size:
            log.warning("%s: its last record was cut short; it is ignored", path)


def _record(stream: Any, number: int, size: int) -> tuple[str, _Ref] | None:
    """Return key and place of the record at the stream's position, None at the end or where it is damaged."""
    start = stream.tell()
    head = stream.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, json_bytes, body_bytes, checksum = _HEAD.unpack(head)
        if magic == _MAGIC and start + _HEAD.size + json_bytes + body_bytes <= size:
            data = stream.read(json_bytes + body_bytes)
            if zlib.crc32(data) == checksum:
                return str(json.loads(data[:json_bytes])[0]), _Ref(number, start, json_bytes, body_bytes)
    stream.seek(start)
    return None
