"""Content codings of HTTP: which of them a header names, and how a body that comes in pieces is unpacked."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from rag_hpc.sources.files.compress import CHUNK, GZIP_MAGIC, ZSTD_SLICE, Inflate

_KNOWN = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "zstd": "zstd",
    "br": "br",
    "compress": "compress",
    "x-compress": "compress",
    "dcb": "dcb",
    "dcz": "dcz",
}
_READ = ("gzip", "deflate", "zstd", "br")
_MAX_CODINGS = 3  # one over another
_MAX_WINDOW = 8 << 20  # of zstd: RFC 8878, 3.1.1.1.2, and RFC 9659
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGICS = {"gzip": GZIP_MAGIC, "zstd": _ZSTD_MAGIC}
_MARKUP = b"<"


class CodingError(Exception):
    """A body whose content coding is damaged, or not one that is read; its text says which."""


class _Unpacker(Protocol):
    @property
    def is_open(self) -> bool: ...

    def feed(self, data: bytes, limit: int = CHUNK) -> Iterator[bytes]: ...


def content_codings(value: str) -> list[str]:
    """Return the codings that a Content-Encoding value names, in the order they were applied.

    Words that name no coding ("none", "utf-8", "identity") are passed over, as browsers do; so are parameters.
    """
    words = (word.partition(";")[0].strip().lower() for word in value.split(","))
    return [_KNOWN[word] for word in words if word in _KNOWN]


def check_codings(codings: list[str]) -> None:
    """Raise CodingError for a coding that is not read, here or anywhere, and for too many one over another."""
    for coding in codings:
        if coding not in _READ:
            raise CodingError(f"{coding}: this content coding is not read")
    if len(codings) > _MAX_CODINGS:
        raise CodingError(f"{', '.join(codings)[:100]}: over {_MAX_CODINGS} content codings")
    if "br" in codings:
        _brotli()


class Decoder:
    """Undoes content codings of a body that comes in pieces. A body that does not begin as its coding does, but with
    markup, was stored or sent decoded: it passes as it is.
    """

    def __init__(self, codings: list[str]) -> None:
        """Raises CodingError."""
        check_codings(codings)
        self._layers = [_Layer(coding) for coding in reversed(codings)]

    @property
    def is_open(self) -> bool:
        """Whether more has to come."""
        return any(layer.is_open for layer in self._layers)

    def feed(self, data: bytes, limit: int = CHUNK) -> Iterator[bytes]:
        """Yield what `data` unpacks to, little more than `limit` bytes in all. Raises CodingError."""
        pieces: Iterable[bytes] = (data,)
        for layer in self._layers:
            pieces = layer.undo(pieces, limit)
        try:
            for piece in pieces:
                yield piece
                limit -= len(piece)
                if limit <= 0:
                    return
        except zlib.error as error:
            raise CodingError(str(error)) from error


def decoded_start(body: bytes, codings: list[str], cap: int) -> tuple[bytes | None, bool]:
    """Return what a body unpacks to as far as it came, None if it is over `cap` bytes, and whether it is cut off.

    Raises CodingError on damage and on codings that are not read.
    """
    decoder = Decoder(codings)
    start = b"".join(decoder.feed(body, cap + 1))
    return (None, False) if len(start) > cap else (start, decoder.is_open)


class _Layer:
    """One coding, decided once the first bytes are there."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._head = b""
        self._unpacker: _Unpacker | None = None
        self._plain = False

    @property
    def is_open(self) -> bool:
        if self._unpacker is None:
            return bool(self._head)
        return self._unpacker.is_open

    def undo(self, pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
        for piece in pieces:
            yield from self._feed(piece, limit)

    def _feed(self, data: bytes, limit: int) -> Iterator[bytes]:
        if self._unpacker is None and not self._plain:
            data = self._head = self._head + data
            magic = _MAGICS.get(self._coding, b"")
            if data[:1] == _MARKUP or not magic.startswith(data[: len(magic)]):
                self._plain = True
            elif len(data) < max(1, len(magic)):
                return
            else:
                self._unpacker = _unpacker(self._coding)
            self._head = b""
        if self._unpacker is None:
            yield data
        else:
            yield from self._unpacker.feed(data, limit)


def _unpacker(coding: str) -> _Unpacker:
    if coding == "zstd":
        return _Zstd()
    return _Brotli() if coding == "br" else Inflate(coding)


class _Zstd:
    """Frames of zstd one after the other (RFC 8878)."""

    def __init__(self) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._frame: Any = None
        self.is_open = True

    def feed(self, data: bytes, limit: int = CHUNK) -> Iterator[bytes]:
        import zstandard

        try:
            for at in range(0, len(data), ZSTD_SLICE):
                piece = data[at : at + ZSTD_SLICE]
                while piece and limit > 0:
                    if self._frame is None:
                        self._frame = self._decompressor.decompressobj()
                    out = self._frame.decompress(piece)
                    self.is_open = not self._frame.eof
                    piece = b"" if self.is_open else self._frame.unused_data
                    if not self.is_open:
                        self._frame = None
                    limit -= len(out)
                    yield out
        except zstandard.ZstdError as error:
            raise CodingError(f"zstd: {error}") from error


class _Brotli:
    """One brotli stream (RFC 7932); what follows it is passed over."""

    def __init__(self) -> None:
        self._brotli = _brotli()
        self._stream = self._brotli.Decompressor()

    @property
    def is_open(self) -> bool:
        return not self._stream.is_finished()

    def feed(self, data: bytes, limit: int = CHUNK) -> Iterator[bytes]:
        pending = True
        try:
            while limit > 0 and pending and not self._stream.is_finished():
                out = self._stream.process(data, output_buffer_limit=max(1, min(limit, CHUNK)))
                data = b""
                pending = not self._stream.can_accept_more_data()
                limit -= len(out)
                yield out
        except self._brotli.error as error:
            raise CodingError(f"br: {error}") from error


def _brotli() -> Any:
    """Return the module brotli. Raises CodingError where it is not installed, or cannot bound what it puts out."""
    try:
        brotli = importlib.import_module("brotli")
    except ImportError as error:
        raise CodingError("br: brotli is not installed; pip install 'brotli>=1.2'") from error
    if not hasattr(brotli.Decompressor, "can_accept_more_data"):
        raise CodingError("br: this brotli cannot bound its output; pip install 'brotli>=1.2'")
    return brotli
