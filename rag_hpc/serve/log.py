"""What was asked of the fleet and what people thought of the answers: Parquet segments in a folder of ours alone.

FOLDER/queries-TIME-HOST-PID-N.parquet   a row a question
FOLDER/votes-TIME-HOST-PID-N.parquet     a row a vote, by the request's id
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rag_hpc.core.fs import fsync_path, naming_disk
from rag_hpc.core.trust import private_files
from rag_hpc.errors import ConfigError
from rag_hpc.stores.tables import read_column, read_table, table_of, write_table

QUERIES = {
    "time": "float64",  # seconds since 1970
    "request_id": "string",
    "tenant": "string",
    "generation": "string",  # of the index
    "question": "string",
    "answer": "string",
    "found": "bool",
    "chunk_ids": "string",  # JSON: the passages that were read, best first
    "cited": "string",  # JSON: those of them that the answer cites
    "source": "string",  # computed, or the cache's level
    "ms": "float64",
}
VOTES = {
    "time": "float64",
    "request_id": "string",
    "tenant": "string",
    "chunk_id": "string",  # "" of the answer as a whole
    "vote": "int64",  # 1 or -1
    "comment": "string",
}
KINDS = {"queries": QUERIES, "votes": VOTES}
MOST_COMMENT = 2000  # characters
_NUMBERS = itertools.count(1)  # of this process's segments


class QueryLog:
    """Writes segments; for any number of threads. What is not written out yet is lost with the process."""

    def __init__(
        self, folder: Path, *, most_rows: int = 1000, most_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        """A segment is written out with `most_rows` rows, or by the first call `most_s` after its first row."""
        self._folder, self._most_rows, self._most_s, self._clock = folder, most_rows, most_s, clock
        self._lock = threading.Lock()
        self._rows: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in KINDS}
        with private_files():
            folder.mkdir(parents=True, exist_ok=True)

    def asked(
        self,
        request_id: str,
        tenant: str,
        generation: str,
        found: dict[str, Any],
        *,
        source: str = "computed",
        ms: float = 0.0,
    ) -> None:
        """Note an answer; `found` as `serve.ask.plain` gives it."""
        passages = found["passages"]
        read = [passage["chunk_id"] for passage in passages]
        cited = [passage["chunk_id"] for passage in passages if passage["cited"]]
        values = (request_id, tenant, generation, found["question"], found["answer"], bool(found["found"]))
        self._add("queries", (*values, json.dumps(read), json.dumps(cited), source, float(ms)))

    def voted(self, request_id: str, tenant: str, vote: int, *, chunk_id: str = "", comment: str = "") -> None:
        """Note a vote of 1 or -1 on an answer, or on one of its passages. Raises ConfigError for another."""
        if vote not in (1, -1):
            raise ConfigError(f"feedback: vote={vote}: 1 (good) or -1 (bad) is needed")
        self._add("votes", (request_id, tenant, chunk_id, vote, comment[:MOST_COMMENT]))

    def flush(self) -> None:
        """Write out what has come. Raises DiskError."""
        with self._lock:
            for kind in KINDS:
                self._write(kind)

    def close(self) -> None:
        """Write out what has come. Raises DiskError."""
        self.flush()

    def _add(self, kind: str, values: tuple[Any, ...]) -> None:
        now = self._clock()
        with self._lock:
            self._rows[kind].append((now, *map(_encodable, values)))
            for one, rows in self._rows.items():
                if rows and (len(rows) >= self._most_rows or now - rows[0][0] >= self._most_s):
                    self._write(one)

    def _write(self, kind: str) -> None:
        rows = self._rows[kind]
        if not rows:
            return
        stem = f"{kind}-{int(rows[0][0]):012d}-{os.uname().nodename}-{os.getpid()}-{next(_NUMBERS)}"
        draft = self._folder / f".{stem}"
        with private_files(), naming_disk(draft):
            write_table(draft, table_of(rows, KINDS[kind]))
            fsync_path(draft)
            draft.rename(self._folder / f"{stem}.parquet")
        rows.clear()


def read_log(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of all segments of "queries" or "votes", in the order of their times."""
    rows = [row for path in sorted(folder.glob(f"{kind}-*.parquet")) for row in read_table(path).to_pylist()]
    yield from sorted(rows, key=lambda row: (row["time"], row["request_id"]))


def forget(folder: Path, before: float) -> int:
    """Remove the segments whose last row is older than `before`, and return how many they were."""
    old = [
        path
        for kind in KINDS
        for path in folder.glob(f"{kind}-*.parquet")
        if max(read_column(path, "time"), default=0.0) < before
    ]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def frequent(rows: Sequence[dict[str, Any]], tenant: str, most: int) -> list[str]:
    """Return the tenant's questions that had an answer, the most often asked first."""
    counts: dict[str, int] = {}
    for row in rows:
        if row["tenant"] == tenant and row["found"]:
            question = " ".join(row["question"].split())
            counts[question] = counts.get(question, 0) + 1
    return sorted(counts, key=lambda question: (-counts[question], question))[:most]


def _encodable(value: Any) -> Any:
    """Return a value that UTF-8 can hold: of a lone surrogate, its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
