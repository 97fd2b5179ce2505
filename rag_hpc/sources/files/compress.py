"""Files as bounded chunks and lines, plain or compressed, that keep what is readable before a cut."""

from __future__ import annotations

import bz2
import errno
import io
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rag_hpc.errors import InputError

CHUNK = 1 << 18
# A zstd block of 128 KiB can be 4 bytes long, so 512 bytes of input give at most 16 MiB in one call.
ZSTD_SLICE = 512
PLAIN, GZIP, DEFLATE = ("", "identity"), ("gzip", "x-gzip"), ("deflate",)  # content codings of HTTP
GZIP_MAGIC = b"\x1f\x8b"
MAX_MEMBERS = 1000  # of a gzip body over HTTP


# No text that is worth reading packs better than this; zlib ends at 1,032, bz2 and zstd pack zeros 20,000-fold.
MAX_RATIO = 500
FREE_BYTES = 1 << 28  # that much may come out whatever the ratio


class TruncatedStream(InputError):
    """A compressed file ends early or is damaged; raised after everything before that point was handed out."""

    reason = "truncated"  # slug of its Reject


class Bomb(TruncatedStream):
    """A compressed file that unpacks to far more than text can; raised after FREE_BYTES were handed out."""

    reason = "bomb"


class Line(NamedTuple):
    """One line of a file. `data` is None when the line is longer than the cap; `cut` says why the file ends here."""

    data: bytes | None
    offset: int  # bytes, in the decompressed file
    cut: TruncatedStream | None = None


def stream_chunks(path: Path, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
    """Yield the decompressed content of the file's bytes `start` to `stop`, as `unpacked` does for its suffix."""
    with open_file(path) as raw:
        raw.seek(start)
        yield from unpacked(_blocks(raw, stop - start if stop is not None else None), path.suffix)


def open_file(path: Path) -> io.BufferedReader:
    """Return the open file; OSError for a pipe, socket or device, which might not end or never begin."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "rb")


def unpacked(blocks: Iterable[bytes], suffix: str) -> Generator[bytes, None, None]:
    """Yield what the blocks unpack to, in pieces of bounded size, by suffix (.gz, .tgz, .bz2, .zst, else as they are).

    Raises TruncatedStream at the point where compressed data break off, and Bomb.
    """
    unpack = _UNPACK.get(suffix.lower())
    if unpack is None:
        yield from blocks
        return
    meter = _Meter(blocks)
    num_out = 0
    for chunk in unpack(meter):
        num_out += len(chunk)
        if num_out > max(FREE_BYTES, MAX_RATIO * meter.num_bytes):
            raise Bomb(f"{meter.num_bytes} bytes unpack to more than {num_out}; text does not pack {MAX_RATIO}-fold")
        yield chunk


def iter_lines(chunks: Iterable[bytes], cap: int, offset: int = 0) -> Iterator[Line]:
    r"""Yield the lines that are not blank, split on b"\n" only; a line over `cap` bytes comes without its data.

    Never holds more than `cap` bytes and one chunk. A broken stream ends in one Line with `cut` set, whose data is
    the unfinished last line (maybe empty).
    """
    held: list[bytes] = []
    size = 0
    cut: TruncatedStream | None = None
    source = iter(chunks)
    while True:
        try:
            chunk = next(source, None)
        except TruncatedStream as error:
            chunk, cut = None, error
        if chunk is None:
            break
        pieces = chunk.split(b"\n")
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            _hold(held, piece, size, cap)
            size += len(piece)
            if index < last:
                yield from _line(held, size, cap, offset)
                offset += size + 1
                held, size = [], 0
    if cut:
        yield Line(None if size > cap else b"".join(held), offset, cut)
    elif size:
        yield from _line(held, size, cap, offset)


def read_capped(chunks: Iterable[bytes], cap: int) -> bytes | None:
    """Return the whole content, or None as soon as it is longer than `cap` bytes."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > cap:
            return None
        held.append(chunk)
    return b"".join(held)


class Inflate:
    """Unpacks a body of HTTP that comes in pieces: the members of gzip (RFC 1952, 2.2), zlib, or the bare deflate that
    some servers send as "deflate".

    What follows the last member is passed over, and more than MAX_MEMBERS are an error. Not `lax`, as for files:
    any number of members, and between them zeros only.
    """

    def __init__(self, coding: str, *, lax: bool = True) -> None:
        self._coding, self._lax = coding, lax
        self._head = b""  # the first byte of a member, when it came alone
        self._num_members = 0
        self._unpack: Any = None
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Whether more has to come."""
        return self._unpack is not None or (bool(self._head) and not self._num_members)

    def feed(self, data: bytes, limit: int = CHUNK) -> Iterator[bytes]:
        """Yield what `data` unpacks to, at most `limit` bytes in a piece (lax: in all). Raises zlib.error."""
        data, self._head = self._head + data, b""
        pending = False  # output that did not fit into the last piece
        while (data or pending) and limit > 0:
            if self._unpack is None and not (data := self._begin(data)):
                break
            piece = self._unpack.decompress(data, limit)
            pending, data = len(piece) == limit, self._unpack.unconsumed_tail
            if self._unpack.eof:
                data, self._unpack, pending = self._unpack.unused_data, None, False
            limit -= len(piece) if self._lax else 0
            yield piece

    def _begin(self, data: bytes) -> bytes:
        """Begin the member that `data` starts with, after zeros maybe; return b"" if there is none, or too little."""
        if not self._lax:
            data = data.lstrip(b"\0") if self._num_members else data
        elif len(data) < 2:
            self._head, data = data, b""
        elif self._num_members and not (self._coding in GZIP and data.startswith(GZIP_MAGIC)):
            self._ended = True
        elif self._num_members == MAX_MEMBERS:
            raise zlib.error(f"over {MAX_MEMBERS} members")
        if not data or self._ended:
            return b""
        self._num_members += 1
        self._unpack = zlib.decompressobj(_window_bits(self._coding, data))
        return data


def inflated_start(body: bytes, coding: str, cap: int) -> bytes | None:
    """Return what the first member of a body unpacks to, as far as it came, None if it is over `cap` bytes.

    Raises zlib.error on damage and on codings that are not known.
    """
    if coding not in (*GZIP, *DEFLATE):
        raise zlib.error("this content coding is not read")
    start = next(Inflate(coding).feed(body, cap + 1), b"")
    return None if len(start) > cap else start


class ChunkReader(io.RawIOBase):
    """A readable, non-seekable file over chunks, for libraries that want one. Counts what it handed out.

    Raises TruncatedStream when more than `limit` bytes are asked of it.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.num_bytes = 0
        self.limit: int | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of bytes handed out."""
        return self.num_bytes

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the position if asked for it by seek(0, 1), as fastwarc does; nothing else can be sought."""
        if (offset, whence) != (0, 1):
            raise io.UnsupportedOperation("a stream of chunks cannot be sought in")
        return self.num_bytes

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the next chunk; 0 at the end. Raises what the chunks raise."""
        if self.limit is not None and self.num_bytes > self.limit:
            raise TruncatedStream("a header without end")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.num_bytes += count
        return count

    def close(self) -> None:
        """Close the chunks too, and with them the file or connection that they come from."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()
        super().close()


def _hold(held: list[bytes], piece: bytes, size: int, cap: int) -> None:
    if size + len(piece) <= cap:
        held.append(piece)
    else:
        held.clear()


def _line(held: list[bytes], size: int, cap: int, offset: int) -> Iterator[Line]:
    if size > cap:
        yield Line(None, offset)
        return
    data = held[0] if len(held) == 1 else b"".join(held)
    if data and not data.isspace():
        yield Line(data, offset)


class _Meter:
    """Blocks, and how many bytes of them were taken."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self.num_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.num_bytes += len(block)
            yield block


def _blocks(raw: io.BufferedReader, left: int | None) -> Iterator[bytes]:
    while block := raw.read(CHUNK if left is None else min(CHUNK, left)):
        if left is not None:
            left -= len(block)
        yield block


def _gunzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the members of a gzip file one after the other; only zeros may stand between them."""
    inflate = Inflate("gzip", lax=False)
    started = False
    try:
        for block in blocks:
            started = True
            yield from filter(None, inflate.feed(block))
    except zlib.error as error:
        raise TruncatedStream(f"damaged gzip data: {error}") from error
    if inflate.is_open or not started:
        raise TruncatedStream("gzip data ends early")


def _window_bits(coding: str, head: bytes) -> int:
    """Return zlib's wbits: gzip, zlib, or the bare deflate that some servers send as "deflate"."""
    if coding not in DEFLATE:
        return 31
    zlib_head = head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0
    return 15 if zlib_head else -15


def _unbzip2(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the streams of a bzip2 file one after the other."""
    unpack = bz2.BZ2Decompressor()
    started = False
    try:
        for block in blocks:
            data = block
            while data or not (unpack.needs_input or unpack.eof):
                if unpack.eof:
                    unpack = bz2.BZ2Decompressor()
                started = True
                out = unpack.decompress(data, CHUNK)
                if out:
                    yield out
                data = unpack.unused_data if unpack.eof else b""
    except (OSError, EOFError) as error:
        raise TruncatedStream(f"damaged bzip2 data: {error}") from error
    if not (started and unpack.eof):
        raise TruncatedStream("bzip2 data ends early")


def _unzstd(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the frames of a zstd file one after the other (RFC 8878)."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    started = idle = False
    try:
        for block in blocks:
            for at in range(0, len(block), ZSTD_SLICE):
                data = block[at : at + ZSTD_SLICE]
                while data:
                    if idle:
                        frame = decompressor.decompressobj()
                    started = True
                    out = frame.decompress(data)
                    if out:
                        yield out
                    idle = frame.eof
                    data = frame.unused_data if idle else b""
    except zstandard.ZstdError as error:
        raise TruncatedStream(f"damaged zstd data: {error}") from error
    if not (started and idle):
        raise TruncatedStream("zstd data ends early")


_UNPACK: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    ".gz": _gunzip,
    ".tgz": _gunzip,
    ".bz2": _unbzip2,
    ".zst": _unzstd,
}
