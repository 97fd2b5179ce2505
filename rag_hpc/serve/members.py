"""The other ranks of a resident group, as rank 0 sees them: who is connected, what they have sent, who is behind.

The messages: rank 0 says {do: round, texts} + [vectors], {round, step} + [array] to answer a step, {end: round} to
those it left out, and {stop}. A rank says {round, step} + [array], {ready}, and {done: round} or {failed: round}.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_hpc.algo.types import Array
from rag_hpc.serve.wire import Broken, Frame, receive, send

log = logging.getLogger(__name__)
OPENING = 0  # the round in which ranks open their shards; it has no deadline
WAIT_S = 0.2  # how often whoever waits looks whether to stop


@dataclass(eq=False)
class Member:
    """A rank, as rank 0 sees it: its connection, and how far it is."""

    rank: int
    sock: socket.socket
    host: str = ""
    ready: bool = False
    behind: int | None = None  # the round that it was left out of and has not ended
    ended: int = OPENING  # the last round that it has ended
    rss_bytes: int = 0
    pid: int = 0
    outbox: queue.SimpleQueue[Frame | None] = field(default_factory=queue.SimpleQueue)


class Members:
    """The ranks that are connected to rank 0, and what they have sent."""

    def __init__(self, world_size: int, stop: Callable[[], bool] = lambda: False) -> None:
        self.world_size, self.stop = world_size, stop
        self.opened: dict[int, Array] = {}  # rank 0's answers in round 0, by step
        self.changed = threading.Condition()
        self.by_rank: dict[int, Member] = {}
        self._arrays: dict[tuple[int, int, int], Array] = {}  # of rank, round, step
        self._failed: set[tuple[int, int]] = set()  # of rank, round

    def join(self, rank: int, sock: socket.socket) -> Member:
        """Return the member of a rank that has connected; one with its number of before is let go."""
        member = Member(rank, sock)
        with self.changed:
            before = self.by_rank.get(rank)
            self.by_rank[rank] = member
            self._forget(rank)
            for step, array in self.opened.items():
                member.outbox.put(({"round": OPENING, "step": step}, [array]))
        if before is not None:
            before.outbox.put(None)
            _shut(before.sock)
        for work in (self._read, self._write):
            threading.Thread(target=work, args=(member,), daemon=True, name=f"rank-{rank}").start()
        return member

    def leave(self, member: Member) -> None:
        """Let a member go."""
        with self.changed:
            if self.by_rank.get(member.rank) is member:
                del self.by_rank[member.rank]
                self._forget(member.rank)
            self.changed.notify_all()
        member.outbox.put(None)
        _shut(member.sock)

    def tell(self, ranks: Sequence[int], head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Send a message to these ranks, those of them that are there; nobody is waited for."""
        with self.changed:
            members = [self.by_rank[rank] for rank in ranks if rank in self.by_rank]
        for member in members:
            member.outbox.put((head, list(arrays)))

    def able(self) -> list[int]:
        """Return the ranks that can take part in a round."""
        with self.changed:
            return sorted(rank for rank, one in self.by_rank.items() if one.ready and one.behind is None)

    def take(self, rank: int, number: int, step: int, until: float | None) -> Array | None:
        """Return what a rank sends in a step, None when it is late, gone, or has failed; it is then left out.

        In round 0 ranks come and go until one has sent it. until: on time.monotonic().
        """
        with self.changed:
            while (found := self._arrays.pop((rank, number, step), None)) is None:
                there = rank in self.by_rank or number == OPENING
                late = until is not None and time.monotonic() >= until
                stopped = number == OPENING and self.stop()
                if not there or late or stopped or (rank, number) in self._failed:
                    break
                self.changed.wait(WAIT_S if until is None else min(WAIT_S, max(0.0, until - time.monotonic())))
            return found

    def leave_out(self, rank: int, number: int) -> None:
        """Let a rank that is behind end its round by itself; none of its later steps is taken."""
        with self.changed:
            if member := self.by_rank.get(rank):
                member.behind = number if member.ended < number else None
        self.tell([rank], {"end": number})

    def ended(self, number: int) -> None:
        """Forget what came for a round."""
        with self.changed:
            self._arrays = {key: value for key, value in self._arrays.items() if key[1] > number}
            self._failed = {key for key in self._failed if key[1] > number}

    def _forget(self, rank: int) -> None:
        self._arrays = {key: value for key, value in self._arrays.items() if key[0] != rank}
        self._failed = {key for key in self._failed if key[0] != rank}

    def _read(self, member: Member) -> None:
        try:
            while True:
                head, arrays = receive(member.sock)
                with self.changed:
                    if self.by_rank.get(member.rank) is not member:
                        return
                    self._took(member, head, arrays)
                    self.changed.notify_all()
        except (Broken, ValueError, TypeError, KeyError) as error:
            if not self.stop():
                log.warning("rank %d on %s: %s", member.rank, member.host or "?", error)
            self.leave(member)

    def _took(self, member: Member, head: dict[str, Any], arrays: list[Array]) -> None:
        member.rss_bytes = int(head.get("rss_bytes", member.rss_bytes))
        if "step" in head:
            number, step, (array,) = int(head["round"]), int(head["step"]), arrays
            if member.behind is None and not (number == OPENING and step in self.opened):
                self._arrays[member.rank, number, step] = array
        elif "ready" in head:
            member.ready, member.host, member.pid = True, str(head["host"]), int(head["pid"])
            log.info("rank %d on %s is ready", member.rank, member.host)
        else:
            member.ended = int(head.get("done", head.get("failed", OPENING)))
            if "failed" in head:
                self._failed.add((member.rank, member.ended))
            if member.behind is not None and member.ended >= member.behind:
                member.behind = None

    def _write(self, member: Member) -> None:
        while (frame := member.outbox.get()) is not None:
            try:
                send(member.sock, *frame)
            except Broken:
                self.leave(member)
                return


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
