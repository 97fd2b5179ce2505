"""Files as bounded chunks and lines, plain or compressed, that keep what is readable before a cut."""

from __future__ import annotations

import io
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from rag_hpc.errors import InputError

CHUNK = 1 << 18
# A zstd block of 128 KiB can be 4 bytes long, so 512 bytes of input give at most 16 MiB in one call.
ZSTD_SLICE = 512


class TruncatedStream(InputError):
    """A compressed file ends early or is damaged; raised after everything before that point was handed out."""


class Line(NamedTuple):
    """One line of a file. `data` is None when the line is longer than the cap; `cut` says why the file ends here."""

    data: bytes | None
    offset: int  # bytes, in the decompressed file
    cut: str = ""


def stream_chunks(path: Path, offset: int = 0) -> Generator[bytes, None, None]:
    """Yield the decompressed content of `path` in pieces of bounded size, by its suffix (.gz, .tgz, .zst, else plain).

    `offset` skips bytes of a plain file. Raises TruncatedStream at the point where a compressed file breaks off.
    """
    with path.open("rb") as raw:
        raw.seek(offset)
        if path.suffix in (".gz", ".tgz"):
            yield from _gunzip(raw)
        elif path.suffix == ".zst":
            yield from _unzstd(raw)
        else:
            yield from iter(lambda: raw.read(CHUNK), b"")


def iter_lines(chunks: Iterable[bytes], cap: int, offset: int = 0) -> Iterator[Line]:
    r"""Yield the lines that are not blank, split on b"\n" only; a line over `cap` bytes comes without its data.

    Never holds more than `cap` bytes and one chunk. A broken stream ends in one Line with `cut` set, whose data is
    the unfinished last line (maybe empty).
    """
    held: list[bytes] = []
    size = 0
    cut = ""
    source = iter(chunks)
    while True:
        try:
            chunk = next(source, None)
        except TruncatedStream as error:
            chunk, cut = None, str(error)
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


class ChunkReader(io.RawIOBase):
    """A readable, non-seekable file over chunks, for libraries that want one. Counts what it handed out."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.num_bytes = 0

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


def _gunzip(raw: IO[bytes]) -> Iterator[bytes]:
    """Yield the members of a gzip file one after the other (RFC 1952, 2.2); zero padding between them is skipped."""
    inflate = zlib.decompressobj(31)
    started = idle = False  # idle: between two members
    try:
        for block in iter(lambda: raw.read(CHUNK), b""):
            started, data = True, block
            while data:
                if idle:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    inflate, idle = zlib.decompressobj(31), False
                out = inflate.decompress(data, CHUNK)
                if out:
                    yield out
                idle = inflate.eof
                data = inflate.unused_data if idle else inflate.unconsumed_tail
        while not idle and (out := inflate.decompress(b"", CHUNK)):
            yield out
        idle = idle or inflate.eof
    except zlib.error as error:
        raise TruncatedStream(f"damaged gzip data: {error}") from error
    if not (started and idle):
        raise TruncatedStream("gzip data ends early")


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Yield the frames of a zstd file one after the other (RFC 8878)."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    started = idle = False
    try:
        for block in iter(lambda: raw.read(CHUNK), b""):
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
