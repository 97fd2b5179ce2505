"""How ranks that were started together speak: MPI buffers, the store of torchrun, or a lone process.

Only arrays cross between ranks, never pickled objects, and no message reaches 2 GiB.
Shape letters: the first axis of what `gather_rows` returns is the concatenation over ranks, in rank order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.job import JobEnv
from rag_hpc.errors import ClusterError, MissingDependency

MESSAGE_BYTES = 1 << 30
LONGEST_WAIT = timedelta(days=7)  # ranks may wait for one that is at work; torchrun itself ends them when one dies
MEETING_WAIT_S = 300.0  # for ranks that start together; nodes of one job do within seconds
HEADER_WORDS = 10
# In a job step a rank may leave MPI_Init before another one, and what it sends at once crashes that one (in Open MPI's
# TCP transport the receiver is not set yet). Four ranks on four hosts of a busy machine: 6 of about 200 steps with Open
# MPI 4.1 and 10 of 140 with 5.0 ended so, with this pause 0 of about 200 and 0 of 70.
STEP_SETTLE_S = 0.5
_DTYPES = [np.dtype(code).str for code in ("u1", "i4", "i8", "f2", "f4", "f8", "u4", "u8")]


Join = Callable[[Array, Array], Array]


class Comm(Protocol):
    """The collectives that stages use."""

    rank: int
    world_size: int

    def broadcast(self, array: Array | None) -> Array:
        """Return rank 0's array on every rank."""

    def gather_rows(self, array: Array) -> Array | None:
        """Return the ranks' arrays joined along axis 0 on rank 0, None elsewhere; other axes and dtype are equal."""

    def fold(self, array: Array, join: Join) -> Array | None:
        """Return on rank 0, None elsewhere, the ranks' arrays joined two by two in a binary tree, in rank order.

        All have one shape and dtype, as has what `join` makes of two: no rank holds more than two of them.
        """

    def sum(self, array: Array) -> Array:
        """Return the element-wise sum over ranks on every rank; use integers where the result must not depend on p."""

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Return what every rank sent to this one, in rank order; parts[r], rows of one width and dtype, goes to r."""

    def barrier(self) -> None:
        """Return once every rank has arrived."""

    def close(self) -> None:
        """Leave the group."""

    def abort(self, exit_code: int) -> None:
        """End every rank at once: a lone dead rank would hold the others in a collective. A lone process goes on."""


class SerialComm:
    """One process on its own."""

    rank = 0
    world_size = 1

    def broadcast(self, array: Array | None) -> Array:
        """Return the array."""
        _header(array)
        return np.asarray(array)

    def gather_rows(self, array: Array) -> Array | None:
        """Return the array."""
        return array

    def fold(self, array: Array, join: Join) -> Array | None:
        """Return the array."""
        return array

    def sum(self, array: Array) -> Array:
        """Return the array."""
        return array

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Return the one part."""
        return list(parts)

    def barrier(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Do nothing."""

    def abort(self, exit_code: int) -> None:
        """Do nothing: nobody waits for this process."""


class MpiComm:
    """MPI through mpi4py's buffer interface."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise MissingDependency(
                f"mpi: mpi4py cannot load an MPI library ({error}); pip install 'rag-hpc[mpi]', or load the site's MPI "
                "module in cluster.prologue and set MPI4PY_LIBMPI to its libmpi"
            ) from error
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD
        self.rank = int(self._comm.Get_rank())
        self.world_size = int(self._comm.Get_size())
        check_world_size(self.world_size)
        if self.world_size > 1 and "SLURM_STEP_ID" in os.environ:
            time.sleep(STEP_SETTLE_S)

    def broadcast(self, array: Array | None) -> Array:
        """Return rank 0's array on every rank; the header goes first, so that receivers can make room."""
        header = _header(array) if self.rank == 0 else np.zeros(HEADER_WORDS, dtype=np.int64)
        self._comm.Bcast(header, root=0)
        array = _sendable(array) if self.rank == 0 else _room_for(header)
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, MESSAGE_BYTES):
            self._comm.Bcast(flat[start : start + MESSAGE_BYTES], root=0)
        return array

    def gather_rows(self, array: Array) -> Array | None:
        """Return the ranks' rows joined on rank 0."""
        array = np.ascontiguousarray(array)
        num_rows = np.zeros(self.world_size, dtype=np.int64)
        self._comm.Gather(np.array([array.shape[0]], dtype=np.int64), num_rows if self.rank == 0 else None, root=0)
        if self.rank != 0:
            for block in _messages(array):
                self._comm.Send(block, dest=0, tag=7)
            return None
        joined = np.empty((int(num_rows.sum()), *array.shape[1:]), dtype=array.dtype)
        joined[: array.shape[0]] = array
        start = array.shape[0]
        for source in range(1, self.world_size):
            stop = start + int(num_rows[source])
            for block in _messages(joined[start:stop]):
                self._comm.Recv(block, source=source, tag=7)
            start = stop
        return joined

    def fold(self, array: Array, join: Join) -> Array | None:
        """Return the ranks' arrays joined on rank 0."""
        array, step = _sendable(array), 1
        while step < self.world_size:
            if self.rank % (2 * step):
                for block in _messages(array):
                    self._comm.Send(block, dest=self.rank - step, tag=9)
                return None
            if self.rank + step < self.world_size:
                other = np.empty_like(array)
                for block in _messages(other):
                    self._comm.Recv(block, source=self.rank + step, tag=9)
                array = _sendable(join(array, other))
            step *= 2
        return array

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks on every rank."""
        total: Array = _sendable(array).copy()
        flat, step = total.reshape(-1), MESSAGE_BYTES // total.itemsize
        for start in range(0, flat.size, step):
            self._comm.Allreduce(self._mpi.IN_PLACE, flat[start : start + step], op=self._mpi.SUM)
        return total

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Return what every rank sent to this one: each speaks with one other at a time, p - 1 times."""
        num_rows = np.zeros(self.world_size, dtype=np.int64)
        self._comm.Alltoall(np.array([len(part) for part in parts], dtype=np.int64), num_rows)
        sent = [np.require(part, requirements=["C", "W"]) for part in parts]
        got = [np.empty((int(num), *sent[0].shape[1:]), dtype=sent[0].dtype) for num in num_rows]
        got[self.rank] = sent[self.rank]
        for shift in range(1, self.world_size):
            to, source = (self.rank + shift) % self.world_size, (self.rank - shift) % self.world_size
            open_sends = [self._comm.Isend(block, dest=to, tag=8) for block in _messages(sent[to])]
            for block in _messages(got[source]):
                self._comm.Recv(block, source=source, tag=8)
            self._mpi.Request.Waitall(open_sends)
        return got

    def barrier(self) -> None:
        """Return once every rank has arrived."""
        self._comm.Barrier()

    def close(self) -> None:
        """Leave MPI to its own finaliser."""

    def abort(self, exit_code: int) -> None:
        """End every rank of the job at once."""
        if self.world_size > 1:
            self._comm.Abort(exit_code)


def _header(array: Array | None) -> Array:
    """Return what a receiver must know to make room: dtype code, number of axes, shape."""
    if array is None or array.ndim > HEADER_WORDS - 2:
        raise ClusterError(f"broadcast: rank 0 must send an array of at most {HEADER_WORDS - 2} axes")
    if array.dtype.str not in _DTYPES:
        raise ClusterError(f"broadcast: no arrays of {array.dtype}; known: {', '.join(_DTYPES)}")
    header = np.zeros(HEADER_WORDS, dtype=np.int64)
    header[: 2 + array.ndim] = [_DTYPES.index(array.dtype.str), array.ndim, *array.shape]
    return header


def _sendable(array: Array | None) -> Array:
    """Return the array, contiguous and writeable as both libraries want it, a copy where it is not."""
    return np.require(array, requirements=["C", "W"])


def _room_for(header: Array) -> Array:
    shape, dtype = _form(header)
    return np.empty(shape, dtype=dtype)


def _form(header: Array) -> tuple[tuple[int, ...], str]:
    return tuple(int(n) for n in header[2 : 2 + int(header[1])]), _DTYPES[int(header[0])]


def _messages(array: Array) -> Iterator[Array]:
    """Yield a contiguous array's bytes in pieces that a message may have."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, MESSAGE_BYTES):
        yield flat[start : start + MESSAGE_BYTES]


class StoreComm:
    """Ranks under torchrun that work on their own, and agree on little: through the store that torchrun keeps anyway.

    They open no port and no process group. Whoever reaches the store's port can make the job fail with what it writes
    there, and no more: values are read as numbers of the expected size, never unpickled. Ranks that a launcher started
    on one machine without torchrun have a file for a store, and then nothing listens.
    """

    def __init__(self) -> None:
        dist: Any = import_module("torch.distributed")  # it does not tell mypy what it exports
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        check_world_size(self.world_size)
        file = JobEnv.from_env().store
        if file:
            self.store = dist.FileStore(file, self.world_size)
            self.store.set_timeout(LONGEST_WAIT)
        else:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            self.store = dist.TCPStore(address, port, is_master=False, timeout=LONGEST_WAIT)
        self._store = dist.PrefixStore("rag_hpc", self.store)
        self._num_calls = 0

    def meet(self, wait_s: float = MEETING_WAIT_S) -> None:
        """Return once every rank is there. Raises ClusterError that names those that are not after `wait_s` seconds."""
        self._store.set(f"here/{self.rank}", os.uname().nodename)
        end, missing = time.monotonic() + wait_s, list(range(self.world_size))
        while missing := [rank for rank in missing if not self._store.check([f"here/{rank}"])]:
            if time.monotonic() >= end:
                names = ", ".join(map(str, missing))
                raise ClusterError(
                    f"rank {self.rank} of {self.world_size} ({os.uname().nodename}) waited {wait_s:.0f} s for rank "
                    f"{names}, which did not come: its node may be down or blocked by a firewall, or "
                    "cluster.interface is not the one between nodes; see: rag-hpc logs"
                )
            time.sleep(0.1)

    def broadcast(self, array: Array | None) -> Array:
        """Return rank 0's array on every rank."""
        key = self._next_key()
        if self.rank == 0:
            header, array = _header(array), _sendable(array)
            self._store.set(key, header.tobytes() + array.tobytes())
            return array
        return _read(self._store.get(key))

    def gather_rows(self, array: Array) -> Array | None:
        """Not offered: stages under torchrun keep their rows and commit them as units."""
        raise NotImplementedError("gather_rows: use an MPI stage")

    def fold(self, array: Array, join: Join) -> Array | None:
        """Not offered, as `gather_rows`."""
        raise NotImplementedError("fold: use an MPI stage")

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Not offered: all bytes would pass through one process."""
        raise NotImplementedError("exchange: use an MPI stage")

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks on every rank."""
        key = self._next_key()
        if self.rank != 0:
            self._store.set(f"{key}/{self.rank}", _header(array).tobytes() + _sendable(array).tobytes())
            return self.broadcast(None)
        total = array
        for rank in range(1, self.world_size):
            total = total + _read(self._store.get(f"{key}/{rank}"))
        return self.broadcast(total)

    def barrier(self) -> None:
        """Return once every rank has arrived."""
        self.sum(np.zeros(1, dtype=np.int64))

    def close(self) -> None:
        """Do nothing: the store is torchrun's."""

    def abort(self, exit_code: int) -> None:
        """End this rank at once; torchrun then ends the others."""
        if self.world_size > 1:
            os._exit(exit_code)

    def _next_key(self) -> str:
        """Return the key of this call: every rank makes the same calls in the same order."""
        self._num_calls += 1
        return str(self._num_calls)


def _read(message: bytes) -> Array:
    """Return the array in a message of header and bytes. Raises ClusterError when it is none."""
    size = HEADER_WORDS * np.dtype(np.int64).itemsize
    try:
        header = np.frombuffer(message[:size], dtype=np.int64)
        if header.min() < 0:
            raise ValueError("a negative number in its header")
        shape, dtype = _form(header)
        return np.frombuffer(message[size:], dtype=dtype).reshape(shape).copy()
    except (ValueError, IndexError) as error:
        raise ClusterError(
            f"torchrun's store holds a message that no rank sent ({error}); does a stranger write to its port? "
            "see: rag-hpc why, and close the port range to other machines"
        ) from error


def check_world_size(world_size: int) -> None:
    """Raise ClusterError when fewer ranks joined than were launched: srun without the right --mpi starts singletons."""
    asked = JobEnv.from_env().world_size or world_size
    if asked != world_size:
        raise ClusterError(
            f"{asked} ranks were launched but this one sees a world of {world_size}: the launcher and the MPI library "
            "do not fit; set cluster.mpi (pmix, pmi2 or mpirun) and MPI4PY_LIBMPI for this site"
        )


def make_comm(kind: str, *, together: bool = False) -> Comm:
    """Return the communicator for a launch kind: 'mpi', 'torchrun' or 'array' (a lone process).

    together: the stage is collective, so that ranks under torchrun wait for each other, but not for ever.
    """
    if kind != "torchrun":
        return MpiComm() if kind == "mpi" else SerialComm()
    comm = StoreComm()
    if together:
        comm.meet()
    return comm
