"""Arrays in .npy files, written row by row and read by row range, without holding or mapping the whole.

A memory map would be counted as memory of the process, and its page faults are slow on Lustre and NFS.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rag_hpc.algo.types import Array
from rag_hpc.errors import CorruptOutput

NPY: Any = np.lib.format  # NumPy does not type it


class ArrayWriter:
    """Appends rows to a .npy file; the same bytes as np.save gives. Use it as a context manager."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int | None = None) -> None:
        self._path, self._dtype, self._inner = path, np.dtype(dtype), () if width is None else (width,)
        self._stream: BinaryIO
        self.num_rows = 0

    def add(self, rows: Array) -> None:
        """Append rows of the file's dtype and width."""
        np.ascontiguousarray(rows, dtype=self._dtype).tofile(self._stream)
        self.num_rows += len(rows)

    def __enter__(self) -> ArrayWriter:
        self._stream = self._path.open("wb")
        self._write_header()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stream.seek(0)
        self._write_header()  # the same length: NumPy leaves room for the first axis to grow
        self._stream.close()

    def _write_header(self) -> None:
        header = {
            "descr": NPY.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self._inner),
        }
        NPY.write_array_header_1_0(self._stream, header)
        self._stream.flush()


class ArrayFile:
    """A .npy file of which ranges of rows are read."""

    def __init__(self, path: Path) -> None:
        """Raises CorruptOutput when the file holds no array in C order."""
        with path.open("rb") as stream:
            try:
                NPY.read_magic(stream)
                shape, fortran, self.dtype = NPY.read_array_header_1_0(stream)
            except ValueError as error:
                raise CorruptOutput(f"{path}: not an array ({error}); remove {path.parent} and run again") from error
            self._offset = stream.tell()
        if fortran or not shape:
            raise CorruptOutput(f"{path}: not an array of rows in C order")
        self.path, self.shape = path, tuple(int(n) for n in shape)
        self._width = int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> Array:
        """Return a copy of the rows [start, stop); CorruptOutput when the file ends before."""
        stop = max(start, stop)
        return self.values(start * self._width, stop * self._width).reshape(stop - start, *self.shape[1:])

    def values(self, start: int, stop: int) -> Array:
        """Return a copy of the values [start, stop) of all rows one after another."""
        at = self._offset + start * self.dtype.itemsize
        values = np.fromfile(self.path, dtype=self.dtype, count=stop - start, offset=at)
        if len(values) != stop - start:
            raise CorruptOutput(f"{self.path}: it ends before value {stop}; remove {self.path.parent} and run again")
        return values

    def rank_of(self, value: int, column: int) -> int:
        """Return how many rows come before `value` in a column in ascending order, by bisection."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if int(self.rows(middle, middle + 1)[0, column]) < value:
                low = middle + 1
            else:
                high = middle
        return low
