"""What people read: log lines of workers, to standard error, appended by the launcher to the job's log; and text that
others wrote (titles, ids, reasons, tracebacks) on its way there or to a terminal, which it must not steer.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# C0, DEL and C1 (escape sequences), separators of lines, marks that reorder or hide text, halves of pairs
_STEERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def shown(text: str, *, block: bool = False) -> str:
    """Return foreign text as one line that does nothing to a terminal: what would stands there as its escape.

    A `block` keeps its line breaks and tabs.
    """

    def escape(found: re.Match[str]) -> str:
        return found[0] if block and found[0] in "\n\t" else found[0].encode("unicode_escape").decode("ascii")

    return _STEERS.sub(escape, text)


_COMMAND = re.compile(r"rag-hpc \S+( \S*[=-]\S+)*")


def columns(stream: TextIO) -> int | None:
    """Return how wide the terminal behind a stream is, None where there is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def folded(text: str, stream: TextIO) -> str:
    """Return lines that fit into the stream's terminal, none broken amid a command that is to be copied.

    Where there is no terminal they stay whole, for who searches them.
    """
    width = columns(stream)
    return text if width is None else "\n".join(_folded(line, width) for line in text.split("\n"))


def _folded(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\xa0"), line)
    parts = textwrap.wrap(whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts).replace("\xa0", " ")


class Beat:
    """What a terminal shows of a command that has nothing to say: that it is at work, and for how long.

    It stands in the line where the next output goes, and goes when that comes.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing shown and nobody to show it to."""
        self._lock = threading.RLock()
        self._stream: TextIO | None = None
        self._width = 0  # of what stands there

    @contextmanager
    def of(self, what: str, stream: TextIO) -> Iterator[None]:
        """Show it while the body of the `with` runs, if the stream is a terminal."""
        if not stream.isatty():
            yield
            return
        begun, over = time.monotonic(), threading.Event()

        def show() -> None:
            while not over.wait(0.5):
                with self._lock:
                    if self._stream is not None and time.monotonic() - self._last >= SILENT_S:
                        text = f"{what}: at work, {time.monotonic() - begun:.0f} s"
                        stream.write(f"\r{text}\r")
                        stream.flush()
                        self._width = len(text)

        self._stream, self._last = stream, begun
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.clear()
            self._stream = None

    def clear(self) -> None:
        """Take away what stands there: something else is about to be written."""
        with self._lock:
            self._last = time.monotonic()
            if self._stream is not None and self._width:
                self._stream.write(f"\r{' ' * self._width}\r")
                self._stream.flush()
                self._width = 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Show nothing while somebody else draws on the terminal."""
        self.clear()
        with self._lock:
            kept, self._stream = self._stream, None
        try:
            yield
        finally:
            self._stream, self._last = kept, time.monotonic()


SILENT_S = 2.0  # after which a terminal is told that a command is still at work
_BEAT = Beat()
at_work, quiet = _BEAT.of, _BEAT.quiet
os.register_at_fork(after_in_child=_BEAT.forget)  # the thread is not there, and may have held the lock


class Terminal(io.TextIOWrapper):
    """Standard output or error that passes on blocks of `shown` text in any encoding: what it lacks is escaped."""

    def __init__(self, bare: io.TextIOWrapper) -> None:
        super().__init__(
            bare.buffer,
            encoding=bare.encoding,
            errors="backslashreplace",
            line_buffering=bare.line_buffering,
            write_through=bare.write_through,
        )
        self.bare = bare

    def write(self, text: str, /) -> int:
        """Write the text and return its length."""
        _BEAT.clear()
        super().write(shown(text, block=True))
        return len(text)


@contextmanager
def terminals() -> Iterator[None]:
    """Put a Terminal before standard output and error."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Terminal(it) if isinstance(it, io.TextIOWrapper) else it for it in kept)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Terminal):
                stream.detach()
        sys.stdout, sys.stderr = kept


def bare(stream: TextIO) -> TextIO:
    """Return the stream behind a Terminal: progress bars steer it."""
    return stream.bare if isinstance(stream, Terminal) else stream


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return folded(shown(super().format(record), block=True), sys.stderr)


def configure(prefix: str = "", level: str | None = None) -> None:
    """Send the package's log to standard error; `prefix` names the worker. Safe to call twice."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(bare(sys.stderr))
    handler.setFormatter(_Format(f"%(asctime)s {prefix} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(level or os.environ.get("RAG_HPC_LOG", "INFO"))
    for noisy in ("httpx", "httpcore", "asyncio", "urllib3", "trafilatura"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
