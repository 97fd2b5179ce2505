"""Which requests of a unit were answered before its worker was stopped or killed: no attempt repeats those of another.

A file an attempt, which only that attempt appends to, a sealed line an answer, in the unit's carry folder; it goes with
the commit. Two attempts at a time read what they found when they began: they may ask the same, and one of them commits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rag_hpc.algo.answer.cite import Quote
from rag_hpc.algo.answer.prompt import Passage
from rag_hpc.core.fs import naming_disk
from rag_hpc.core.hashing import hash_value
from rag_hpc.generators.base import Answer

log = logging.getLogger(__name__)
_SEAL = 16  # characters of a line's hash, before it


class Journal:
    """JSON-able values by request, those of earlier attempts and of this one; for any number of threads, in a
    with-block."""

    def __init__(self, folder: Path | None) -> None:
        """folder: of the unit, made when there is something to write; None remembers nothing."""
        self._folder = folder
        self._lock, self._stream = threading.Lock(), -1
        self._values = _read(folder) if folder is not None and folder.is_dir() else {}
        self.num_replayed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream >= 0:
            os.close(self._stream)

    def find(self, key: str) -> Any:
        """Return what an earlier attempt was told, None where it was not."""
        with self._lock:
            found = self._values.get(key)
            self.num_replayed += found is not None
        return found

    def note(self, key: str, value: Any) -> None:
        """Remember a value; it is on disk when this returns."""
        if self._folder is None:
            return
        line = json.dumps({"key": key, "answer": value}, sort_keys=True).encode()
        with self._lock, naming_disk(self._folder):
            if self._stream < 0:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = self._folder / f"answers-{uuid.uuid4().hex}.jsonl"
                self._stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            data = memoryview(_seal(line) + line + b"\n")
            while data:
                data = data[os.write(self._stream, data) :]
            os.fsync(self._stream)


class Replay(Journal):
    """A journal of answers."""

    def __init__(self, folder: Path | None, asked_with: Any) -> None:
        """asked_with: the settings that a request has beside its question and passages, as JSON-able values."""
        super().__init__(folder)
        self._asked_with = asked_with

    def key(self, question: str, passages: Sequence[Passage]) -> str:
        """Return what names the request."""
        return hash_value([self._asked_with, question, [dataclasses.asdict(passage) for passage in passages]])

    def get(self, key: str) -> Answer | None:
        """Return the answer that an earlier attempt was given, None where none was."""
        found = self.find(key)
        if found is None:
            return None
        return Answer(**{**found, "quotes": [Quote(**quote) for quote in found["quotes"]]})

    def put(self, key: str, answer: Answer) -> Answer:
        """Remember the answer, on disk when this returns, and return it."""
        self.note(key, dataclasses.asdict(answer))
        return answer


def _read(folder: Path) -> dict[str, Any]:
    """Return the values that are whole; a line that a killed attempt left unfinished is passed over."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for number, row in enumerate(path.read_bytes().split(b"\n"), start=1):
            seal, line = row[:_SEAL], row[_SEAL:]
            if row and seal == _seal(line):
                value = json.loads(line)
                found[value["key"]] = value["answer"]
            elif row:
                log.warning("%s:%d is not whole and is passed over; its question is asked again", path, number)
    return found


def _seal(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest()[:_SEAL].encode()
