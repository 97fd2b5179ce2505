"""Rank 0's door: takes queries from whoever holds the group's key, searches them in batches, and answers in time.

Q queries, D dimensions. A request says {ask: search, texts, deadline_ms, only} + [vectors_QD] and hears {coverage,
seconds, methods} + [scores, ids of each method], or {error, said}; {ask: status} hears how the group is. Whoever asks
waits in a thread; one thread, the process's first, searches, since Java and the collective calls are its.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import InputError, RagHpcError
from rag_hpc.search.filters import check_filter
from rag_hpc.serve.members import WAIT_S, Members
from rag_hpc.serve.places import Group, ServeConfig, alive
from rag_hpc.serve.rounds import RootComm
from rag_hpc.serve.wire import Broken, Frame, Refused, receive, send, welcome

if TYPE_CHECKING:
    from rag_hpc.search.searcher import Found

log = logging.getLogger(__name__)
GUESTS = 512  # connections at a time
REMEMBERED = 10_000  # requests whose times the quantiles are of
SEND_S = 30.0  # for a guest to take its answer
TEXT_BYTES = 1 << 20  # of a query


@dataclass(eq=False)
class Request:
    """Queries of one guest, and the answer when it is there."""

    texts: list[str]
    vectors_QD: Array
    begun: float  # on time.monotonic()
    until: float
    only: str = ""  # a filter of passages beside the group's own
    answered: threading.Event = field(default_factory=threading.Event)
    reply: Frame | None = None
    given_up: bool = False


def shares(num_shards: int, num_ranks: int) -> list[int]:
    """Return how many shards each rank counts for: those that it holds, and its part of the vectors where none."""
    return [max(1, len(range(rank, num_shards, num_ranks))) for rank in range(num_ranks)]


class Narrowed(Protocol):
    """What searches, of the passages that a filter lets through."""

    def search(self, texts: Sequence[str], vectors_QD: Array, only: str = "") -> Found:
        """Return the hits of all methods for the queries."""


class Door:
    """The requests of a group, and what is searched for them."""

    def __init__(
        self, group: Group, members: Members, key: bytes, num_shards: int, width: int, stop: Callable[[], bool]
    ) -> None:
        """width: D. stop: whether to take no more requests; those that wait are answered yet."""
        self._group, self._members, self._key, self._width, self._stop = group, members, key, width, stop
        self._config = ServeConfig(**group.settings)
        self._shares = shares(num_shards, group.ranks)
        self._waiting: deque[Request] = deque()
        self._came = threading.Condition()
        self._guests = threading.BoundedSemaphore(GUESTS)
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._counts = dict.fromkeys(("requests", "queries", "partial", "late", "overloaded", "failed", "refused"), 0)
        self._started, self._round, self._open = time.monotonic(), 0, False

    def listen(self, sock: socket.socket) -> None:
        """Take guests at a listening socket, in threads, until it is closed."""
        threading.Thread(target=self._accept, args=(sock,), daemon=True, name="door").start()

    def run(self, searcher: Narrowed, comm: RootComm) -> None:
        """Search what is asked, once all ranks are there, until it is to stop and nothing waits."""
        while not all(rank in self._members.able() for rank in range(1, self._group.ranks)):
            if self._stop():
                return
            time.sleep(WAIT_S / 4)
        self._open = True
        log.info("serving %s: %d ranks", self._group.run, self._group.ranks)
        while not (self._stop() and not self._waiting):
            if batch := self._next():
                self._serve(batch, searcher, comm)

    # ---- guests

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                guest, _ = sock.accept()
            except OSError:  # closed
                return
            if not self._guests.acquire(blocking=False):
                guest.close()
                continue
            threading.Thread(target=self._guest, args=(guest,), daemon=True, name="guest").start()

    def _guest(self, sock: socket.socket) -> None:
        stays = False
        try:
            alive(sock)
            role = welcome(sock, self._key)
            if role == "ask":
                self._answer_all(sock)
            elif role.isdecimal() and 1 <= int(role) < self._group.ranks:
                sock.settimeout(None)
                self._members.join(int(role), sock)
                stays = True
        except Refused as error:
            self._counts["refused"] += 1
            log.warning("%s", error)
        except (Broken, OSError) as error:
            log.debug("a guest left: %s", error)
        finally:
            self._guests.release()
            if not stays:
                sock.close()

    def _answer_all(self, sock: socket.socket) -> None:
        while True:
            head, arrays = receive(sock)
            try:
                reply = self._status() if head.get("ask") == "status" else self._ask(head, arrays)
            except RagHpcError as error:
                reply = {"error": "wrong", "said": str(error)}, []
            sock.settimeout(SEND_S)
            send(sock, *reply)

    def _ask(self, head: dict[str, Any], arrays: list[Array]) -> Frame:
        texts, vectors_QD = self._checked(head, arrays)
        check_filter(only := str(head.get("only") or ""))
        now, limit_ms = time.monotonic(), head.get("deadline_ms") or self._config.deadline_ms
        if not isinstance(limit_ms, int | float) or not 1 <= limit_ms <= 600_000:
            raise InputError(f"deadline_ms={limit_ms!r}: from 1 to 600000")
        if self._stop():
            return {"error": "draining", "said": "the group is going down; ask another, or again in a while"}, []
        if not self._open:
            return {"error": "starting", "said": "its ranks are not all there yet; see: rag-hpc serve status"}, []
        request = Request(texts, vectors_QD, now, now + limit_ms / 1000, only)
        with self._came:
            if len(self._waiting) >= self._config.max_queue:
                self._counts["overloaded"] += 1
                said = f"overloaded: {len(self._waiting)} requests wait; ask again, or start a second group"
                return {"error": "overloaded", "said": said}, []
            self._waiting.append(request)
            self._came.notify()
        request.answered.wait(limit_ms / 1000)
        with self._came:
            if request.reply is None:
                request.given_up = True
                self._counts["late"] += 1
                said = f"nothing was found within {limit_ms:g} ms; {len(self._waiting)} requests wait"
                return {"error": "late", "said": said, "coverage": [0, sum(self._shares)]}, []
            self._times.append(time.monotonic() - now)
            return request.reply

    def _checked(self, head: dict[str, Any], arrays: list[Array]) -> tuple[list[str], Array]:
        """Return the texts and vectors of a request; what one of them is wrong in must not fail a whole batch."""
        texts = head.get("texts")
        if head.get("ask") != "search" or not isinstance(texts, list) or len(arrays) != 1:
            raise InputError("ask: search or status, with `texts` and one array of their vectors")
        if not 1 <= len(texts) <= self._config.max_batch or not all(isinstance(text, str) for text in texts):
            raise InputError(f"texts: from 1 to serve.max_batch={self._config.max_batch} strings are needed")
        if any(len(text.encode("utf-8", "replace")) > TEXT_BYTES for text in texts):
            raise InputError(f"texts: a query has more than {TEXT_BYTES} bytes")
        vectors_QD = arrays[0]
        if vectors_QD.shape != (len(texts), self._width) or vectors_QD.dtype.kind != "f":
            raise InputError(
                f"vectors: {vectors_QD.dtype} {list(vectors_QD.shape)}, but {len(texts)} rows of {self._width} floats "
                "are needed; does the same encoder make them?"
            )
        vectors_QD = vectors_QD.astype(np.float32)
        if not np.isfinite(vectors_QD).all() or np.abs(vectors_QD).max(initial=0.0) > 1e6:
            raise InputError("vectors: they hold NaN, infinity or values beyond 1e6")
        return texts, vectors_QD

    def _status(self) -> Frame:
        times = sorted(self._times)
        quantiles = {f"p{n}_ms": round(1000 * times[len(times) * n // 100], 2) if times else None for n in (50, 99)}
        with self._members.changed:
            members = dict(self._members.by_rank)
        rows = [self._row(rank, members) for rank in range(self._group.ranks)]
        up = sum(row["shards"] for row in rows if row["state"] == "up")
        state = "draining" if self._stop() else "starting" if not self._open else "up"
        return {
            "state": "partial" if state == "up" and up < sum(self._shares) else state,
            "coverage": f"{up}/{sum(self._shares)}",
            "ranks": rows,
            "waiting": len(self._waiting),
            "up_s": round(time.monotonic() - self._started, 1),
            **self._counts,
            **quantiles,
        }, []

    def _row(self, rank: int, members: dict[int, Any]) -> dict[str, Any]:
        row = {"rank": rank, "state": "down", "shards": self._shares[rank], "host": "", "pid": 0, "rss_bytes": 0}
        if rank == 0:
            here = {"host": os.uname().nodename, "pid": os.getpid(), "rss_bytes": resident_bytes()}
            return {**row, **here, "state": "up"}
        member = members.get(rank)
        if member is None:
            return row
        state = "opening" if not member.ready else "late" if member.behind is not None else "up"
        return {**row, "state": state, "host": member.host, "pid": member.pid, "rss_bytes": member.rss_bytes}

    # ---- searching

    def _next(self) -> list[Request]:
        """Return the requests to search together: the oldest, and of those behind it the ones with as much time, and
        with the same filter."""
        with self._came:
            if not self._waiting:
                self._came.wait(WAIT_S)
            batch: list[Request] = []
            now, left, num_queries = time.monotonic(), 0.0, 0
            for request in list(self._waiting):
                if request.given_up or request.until <= now:
                    self._waiting.remove(request)
                    continue
                left = left or request.until - now
                fits = num_queries + len(request.texts) <= self._config.max_batch
                alike = not batch or request.only == batch[0].only
                if batch and not (fits and alike and left / 2 <= request.until - now <= 2 * left):
                    continue
                self._waiting.remove(request)
                batch.append(request)
                num_queries += len(request.texts)
            return batch

    def _serve(self, batch: Sequence[Request], searcher: Narrowed, comm: RootComm) -> None:
        self._round += 1
        texts = [text for request in batch for text in request.texts]
        vectors_QD = np.concatenate([request.vectors_QD for request in batch])
        ranks, until = self._members.able(), min(request.until for request in batch)
        comm.begin(self._round, ranks, until)
        only = batch[0].only
        self._members.tell(ranks, {"do": self._round, "texts": texts, "only": only}, [vectors_QD])
        try:
            found = searcher.search(texts, vectors_QD, only)
        except Exception as error:  # whatever a search raises is the answer to these requests
            log.error("round %d: %s", self._round, error, exc_info=error)
            for rank in ranks:
                self._members.leave_out(rank, self._round)
            said: Frame = {"error": "failed", "said": f"{type(error).__name__}: {error}"}, []
            self._counts["failed"] += len(batch)
            self._reply(batch, [said] * len(batch))
        else:
            covered = sum(self._shares[rank] for rank in (0, *comm.here))
            self._counts["partial"] += len(batch) * (covered < sum(self._shares))
            self._counts["requests"] += len(batch)
            self._counts["queries"] += len(texts)
            head = {"coverage": [covered, sum(self._shares)], "seconds": found.seconds, "methods": list(found.hits)}
            frames, low = [], 0
            for request in batch:
                rows = slice(low, low := low + len(request.texts))
                frames.append((head, [part[rows] for hits in found.hits.values() for part in hits]))
            self._reply(batch, frames)
        self._members.ended(self._round)

    def _reply(self, batch: Sequence[Request], frames: Sequence[Frame]) -> None:
        with self._came:
            for request, frame in zip(batch, frames, strict=True):
                request.reply = frame
                request.answered.set()


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Return the memory that this process holds."""
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
