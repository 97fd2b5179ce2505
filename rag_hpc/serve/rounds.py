"""How the ranks of a resident group make the collective calls of a Searcher, over sockets, without ever hanging.

MPI would end all ranks with the first that dies, and waits for ever for one that sleeps. Here rank 0 asks: each batch
of queries is one round of the same calls on every rank, each call a numbered step of its round. A rank that is late,
gone or wrong in a step is left out of the rest of the round, and of later ones until it has caught up; what it would
have given counts as nothing found. What is exchanged when shards are opened (round 0) is kept, so that a rank can come
back at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.core.comm import Join
from rag_hpc.serve.members import OPENING, Members
from rag_hpc.serve.wire import Broken, Frame

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """Rank 0 has ended the round without this rank."""


class RootComm:
    """Rank 0's side of the calls: others' parts are taken until the round's end is near, and given up then."""

    rank = 0

    def __init__(self, members: Members) -> None:
        self._members, self.world_size = members, members.world_size
        self._round, self._step = OPENING, 0
        self._until: float | None = None
        self.here: list[int] = list(range(1, self.world_size))  # ranks that were in time so far

    def begin(self, number: int, ranks: Sequence[int], until: float | None) -> None:
        """Begin a round with these ranks; `until`: on time.monotonic(), when its answer is due."""
        self._round, self._step, self._until, self.here = number, 0, until, list(ranks)

    def broadcast(self, array: Array | None) -> Array:
        """Return the array, which the others get."""
        self._step += 1
        return self._answer(np.asarray(array))

    def gather_rows(self, array: Array) -> Array | None:
        """Return the rows in rank order; of ranks that are left out, as many as rank 0's that hold nothing: -1, and
        minus infinity of scores. Of plain bytes and numbers, which any rank has as many of as it likes, none."""
        parts = self._collect(lambda part: part.shape[1:] == array.shape[1:] and part.dtype == array.dtype)
        if array.ndim == 1:
            told: Array = np.concatenate([array, *(parts[rank] for rank in sorted(parts))])
            return told
        nothing = np.full(array.shape, -np.inf if array.dtype.kind == "f" else -1, dtype=array.dtype)
        joined: Array = np.concatenate([array, *(parts.get(rank, nothing) for rank in range(1, self.world_size))])
        return joined

    def fold(self, array: Array, join: Join) -> Array | None:
        """Return the arrays of the ranks that are not left out, joined one after another."""
        parts = self._collect(lambda part: part.shape == array.shape and part.dtype == array.dtype)
        for rank in sorted(parts):
            array = join(array, parts[rank])
        return array

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks that are not left out."""
        total = np.array(array)
        for part in self._collect(lambda part: part.shape == array.shape).values():
            total += part
        return self._answer(total)

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Not offered: ranks are connected to rank 0 alone."""
        raise NotImplementedError("exchange: use an MPI stage")

    def barrier(self) -> None:
        """Return once every rank has arrived or is left out."""
        self.sum(np.zeros(1, dtype=np.int64))

    def close(self) -> None:
        """Do nothing: the door closes."""

    def abort(self, exit_code: int) -> None:
        """Do nothing: nobody is waited for."""

    def _collect(self, fits: Callable[[Array], bool]) -> dict[int, Array]:
        """Return the parts of the ranks that are in time: each step may take half of what is left, so that a late rank
        never uses up the time of the steps after it."""
        self._step += 1
        now = time.monotonic()
        until = None if self._until is None else now + max(0.0, self._until - now) / 2
        parts: dict[int, Array] = {}
        for rank in self.here:
            part = self._members.take(rank, self._round, self._step, until)
            if part is not None and fits(part):
                parts[rank] = part
            elif self._round == OPENING:
                raise Broken(f"rank {rank} did not open its shards")
            else:
                log.warning("rank %d is left out of round %d at step %d", rank, self._round, self._step)
                self._members.leave_out(rank, self._round)
        self.here = list(parts)
        return parts

    def _answer(self, array: Array) -> Array:
        if self._round == OPENING:
            with self._members.changed:  # before it is told: a rank that asks now is answered from it
                self._members.opened[self._step] = array
        self._members.tell(self.here, {"round": self._round, "step": self._step}, [array])
        return array


class RankComm:
    """Another rank's side. A call raises Abandoned when rank 0 goes on without it, and Broken when it is gone."""

    def __init__(self, rank: int, world_size: int, answer: Callable[[], Frame]) -> None:
        """answer: gives the next frame from rank 0, raising Broken."""
        self.rank, self.world_size, self._next = rank, world_size, answer
        self.say: Callable[[dict[str, Any], list[Array]], None] = lambda head, arrays: None
        self._opened: list[Callable[[], object]] = []  # its calls in round 0, to be made again to another rank 0
        self._round: int | None = OPENING
        self._step = 0

    def begin(self, number: int | None) -> None:
        """Begin a round; None is one of this rank alone, to read and compile what a search uses."""
        self._round, self._step = number, 0
        if number == OPENING:
            self._opened = []

    def broadcast(self, array: Array | None) -> Array:
        """Return rank 0's array."""
        self._step += 1
        self._note(lambda: self.broadcast(None))
        if self._round is None:
            raise Abandoned
        return self._answer()

    def gather_rows(self, array: Array) -> Array | None:
        """Send the rows to rank 0."""
        self._step += 1
        self._note(lambda: self.gather_rows(array))
        self._send(array)
        return None

    def fold(self, array: Array, join: Join) -> Array | None:
        """Send the array to rank 0."""
        return self.gather_rows(array)

    def sum(self, array: Array) -> Array:
        """Return the sum over ranks, as rank 0 tells it."""
        self._step += 1
        self._note(lambda: self.sum(array))
        self._send(array)
        return array if self._round is None else self._answer()

    def exchange(self, parts: Sequence[Array]) -> list[Array]:
        """Not offered: ranks are connected to rank 0 alone."""
        raise NotImplementedError("exchange: use an MPI stage")

    def barrier(self) -> None:
        """Return once rank 0 has."""
        self.sum(np.zeros(1, dtype=np.int64))

    def close(self) -> None:
        """Do nothing."""

    def abort(self, exit_code: int) -> None:
        """Do nothing: nobody waits for this process."""

    def open_again(self) -> None:
        """Tell another rank 0 what was told before when shards were opened, and hear the same."""
        calls = self._opened
        self.begin(OPENING)
        try:
            for call in calls:
                call()
        finally:
            self._opened = calls

    def _note(self, call: Callable[[], object]) -> None:
        if self._round == OPENING:
            self._opened.append(call)

    def _send(self, array: Array) -> None:
        if self._round is not None:
            self.say({"round": self._round, "step": self._step}, [array])

    def _answer(self) -> Array:
        while True:
            head, arrays = self._next()
            if head.get("end") == self._round:
                raise Abandoned
            if head.get("stop"):
                raise Broken("rank 0 has closed the group")
            if (head.get("round"), head.get("step")) == (self._round, self._step) and len(arrays) == 1:
                return arrays[0]
