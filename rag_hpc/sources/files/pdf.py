"""Text of PDF files, read by pdfium in a process of its own: a crash, a hang or a bomb there costs one file."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from typing import Any

from rag_hpc.algo.extract.decode import clean_text
from rag_hpc.errors import InputError, MissingDependency

PDF_TYPE = "application/pdf"
MAX_PAGES = 5_000
TIMEOUT_S = 60.0  # of one file
MAX_MEMORY = 2 << 30  # bytes of address space of the reading process
_LENGTH = struct.Struct(">I")


class PdfError(InputError):
    """A PDF without usable text; `reason` is the slug of its Reject."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def pdf_text(body: bytes, max_chars: int, timeout_s: float = TIMEOUT_S) -> tuple[str, list[int]]:
    """Return the text of a PDF, pages parted by blank lines, not more than about `max_chars`; and how many characters
    that are no space each page has once it is cleaned, so that a place in the text has a page's number.

    Raises PdfError: malformed, encrypted, too-many-pages, no-text (scans have none), timeout, crashed.
    Raises MissingDependency without pypdfium2.
    """
    if b"%PDF-" not in body[:1024]:
        raise PdfError("malformed", "no PDF header in the first 1024 bytes")
    reply = _reader().ask(body, max_chars, timeout_s)
    if "reason" in reply:
        raise PdfError(reply["reason"], reply["detail"])
    pages: list[str] = reply["pages"]
    return "\n\n".join(filter(None, pages))[:max_chars], [len("".join(clean_text(page).split())) for page in pages]


class _Reader:
    """A process that reads one PDF after the other. One request: two numbers and the body; one reply: JSON."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, body: bytes, max_chars: int, timeout_s: float) -> dict[str, Any]:
        """Return the reply; a process that died or took too long is replaced for the next file."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        deadline = time.monotonic() + timeout_s
        try:
            self._send(_LENGTH.pack(len(body)) + _LENGTH.pack(min(max_chars, 2**32 - 1)) + body, deadline)
            (size,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
            reply: dict[str, Any] = json.loads(self._receive(size, deadline))
        except TimeoutError:
            self.close()
            return {"reason": "timeout", "detail": f"not read within {timeout_s:g} s"}
        except (BrokenPipeError, EOFError):
            status = self.close()
            return {"reason": "crashed", "detail": f"the PDF reader ended with status {status}"}
        if "missing" in reply:
            raise MissingDependency("pypdfium2 is not installed, and PDF files need it: pip install pypdfium2")
        return reply

    def close(self) -> int | None:
        """End the process; return its exit status, None if it had to be killed."""
        process, self._process = self._process, None
        if process is None or os.getpid() != self.owner:
            return None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def _send(self, data: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            view = view[os.write(pipe, view) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            block = os.read(pipe, size - len(data))
            if not block:
                raise EOFError
            data += block
        return bytes(data)


_readers: list[_Reader] = []


def _reader() -> _Reader:
    """Return this process's reader; a fork does not share its parent's."""
    if not _readers or _readers[0].owner != os.getpid():
        _readers[:] = [_Reader()]
        atexit.register(_readers[0].close)
    return _readers[0]


def serve() -> None:
    """Answer requests on standard input until it closes: the main function of the reading process."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while len(head := stdin.read(2 * _LENGTH.size)) == 2 * _LENGTH.size:
        size, max_chars = struct.unpack(">II", head)
        reply = json.dumps(_answer(stdin.read(size), max_chars)).encode()
        stdout.write(_LENGTH.pack(len(reply)) + reply)
        stdout.flush()


def _answer(body: bytes, max_chars: int) -> dict[str, Any]:
    try:
        return {"pages": _pages(body, max_chars)}
    except PdfError as error:
        return {"reason": error.reason, "detail": error.detail}
    except MemoryError:
        return {"reason": "too-large", "detail": f"needs more than {MAX_MEMORY >> 20} MiB"}
    except ImportError as error:
        return {"missing": str(error)}


def _pages(body: bytes, max_chars: int) -> list[str]:
    """Return the text of each page, "" where there is none, until they have that many characters."""
    import pypdfium2  # type: ignore[import-untyped]

    try:
        document = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        reason = "encrypted" if "password" in str(error).lower() else "malformed"
        raise PdfError(reason, str(error)) from error
    if len(document) > MAX_PAGES:
        raise PdfError("too-many-pages", f"{len(document)} pages, cap {MAX_PAGES}")
    pages: list[str] = []
    broken = num_chars = 0
    for number in range(len(document)):
        try:
            text = document[number].get_textpage().get_text_bounded().replace("\r\n", "\n").strip()
        except pypdfium2.PdfiumError:
            broken += 1
            pages.append("")
            continue
        pages.append(text.encode("utf-8", "replace").decode("utf-8"))
        num_chars += len(text)
        if num_chars >= max_chars:
            break
    if not any(pages) or not max_chars:
        raise PdfError("no-text", f"{len(document)} pages without text, {broken} of them unreadable")
    return pages


# without the current folder on the path: a user's own json.py there is not ours
_BOOT = "import sys; sys.path[:] = filter(None, sys.path); from rag_hpc.sources.files.pdf import serve; serve()"
