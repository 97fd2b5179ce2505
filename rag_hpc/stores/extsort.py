"""Sorting more rows than fit into memory: sorted runs on disk, merged block by block.

A row is one value of each of C columns of 64-bit integers; rows are ordered by the first column, then the next.
Source of the merge: Knuth, The Art of Computer Programming 3, 5.4.1, with blocks in place of single records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.types import Array

Rows = list[Array]  # C columns of equal length
COPIES = 4  # of a block that sorting holds at most: the block, its order, what is gathered, and slack
LEAST_ROWS = 64  # of a run that the merge reads at a time


@dataclass
class _Run:
    """A sorted run in the file of runs: its columns one after another, and the part of it that is in memory."""

    offset: int
    num_rows: int
    block: int = 0
    taken: int = 0
    rows: Rows | None = None


class Sorter:
    """Takes rows in any order and gives them back sorted, in memory bounded by `memory_bytes`."""

    def __init__(self, path: Path, dtypes: Sequence[npt.DTypeLike], memory_bytes: int) -> None:
        """`path`: the file that holds the runs when there are any; it must not exist yet."""
        self._path, self._dtypes = path, [np.dtype(dtype) for dtype in dtypes]
        self._most = max(LEAST_ROWS, memory_bytes // (COPIES * 8 * len(dtypes)))
        self._open: list[Rows] = []
        self._num_open = 0
        self._runs: list[_Run] = []

    def add(self, *columns: Array) -> None:
        """Take rows, column by column."""
        for start in range(0, len(columns[0]), self._most):
            part = [
                np.asarray(column[start : start + self._most], dtype=dtype)
                for column, dtype in zip(columns, self._dtypes, strict=True)
            ]
            if self._num_open + len(part[0]) > self._most:
                self._write_run()
            self._open.append(part)
            self._num_open += len(part[0])

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows in order, in blocks that are not empty; the sorter is used up then."""
        if not self._runs:
            if self._num_open:
                yield self._sorted_open()
            return
        self._write_run()
        try:
            yield from self._merged()
        finally:
            self._path.unlink()

    def unique_blocks(self) -> Iterator[Rows]:
        """Yield the rows in order without repeats."""
        last: Rows | None = None
        for rows in self.blocks():
            fresh = np.ones(len(rows[0]), dtype=bool)
            fresh[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in rows])
            fresh[0] = last is None or any(column[0] != old[0] for column, old in zip(rows, last, strict=True))
            last = [column[-1:].copy() for column in rows]
            if fresh.any():
                yield [column[fresh] for column in rows]

    def _sorted_open(self) -> Rows:
        columns = [np.concatenate([part[i] for part in self._open]) for i in range(len(self._dtypes))]
        self._open, self._num_open = [], 0
        return sort_rows(columns)

    def _write_run(self) -> None:
        if not self._num_open:
            return
        rows = self._sorted_open()
        with self._path.open("ab") as stream:
            self._runs.append(_Run(stream.tell(), len(rows[0])))
            for column in rows:
                column.tofile(stream)

    def _merged(self) -> Iterator[Rows]:
        """Yield what is not above the lowest last row in memory of the runs that go on: nothing below it is to come."""
        runs = self._runs
        for run in runs:
            run.block = max(LEAST_ROWS, self._most // len(runs))
        while runs:
            for run in runs:
                self._refill(run)
            ends = [tuple(column[-1] for column in run.rows) for run in runs if run.rows and run.taken < run.num_rows]
            limit = min(ends) if ends else None
            pieces = [_take(run, limit) for run in runs]
            runs = [run for run in runs if run.rows or run.taken < run.num_rows]
            yield sort_rows([np.concatenate([piece[i] for piece in pieces if piece]) for i in range(len(self._dtypes))])

    def _refill(self, run: _Run) -> None:
        if run.rows is not None or run.taken == run.num_rows:
            return
        count = min(run.block, run.num_rows - run.taken)
        begins = [run.offset + 8 * (i * run.num_rows + run.taken) for i in range(len(self._dtypes))]
        run.rows = [
            np.fromfile(self._path, dtype=dtype, count=count, offset=begin)
            for dtype, begin in zip(self._dtypes, begins, strict=True)
        ]
        run.taken += count


def sort_rows(columns: Rows) -> Rows:
    """Return the rows in order. The first column is sorted alone, and only rows that are equal in it are looked at
    again: of hashes these are few."""
    order = np.argsort(columns[0])
    out = [column[order] for column in columns]
    if len(columns) == 1 or len(order) < 2:
        return out
    same = out[0][1:] == out[0][:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    if len(tied):
        among = np.lexsort([column[tied] for column in reversed(out)])
        for column in out[1:]:
            column[tied] = column[tied[among]]
    return out


def _take(run: _Run, limit: tuple[Any, ...] | None) -> Rows | None:
    """Return the rows of the run in memory that are not above the limit, and keep the rest of them."""
    if run.rows is None:
        return None
    num = len(run.rows[0]) if limit is None else _num_upto(run.rows, limit)
    taken, left = [column[:num] for column in run.rows], [column[num:] for column in run.rows]
    run.rows = left if len(left[0]) else None
    return taken if num else None


def _num_upto(rows: Rows, limit: tuple[Any, ...]) -> int:
    """Return how many of the sorted rows are not above the limit."""
    low, high = 0, len(rows[0])
    for column, value in zip(rows, limit, strict=True):
        inside = column[low:high]
        high = low + int(np.searchsorted(inside, value, "right"))
        low += int(np.searchsorted(inside, value, "left"))
    return high
