"""Searches of concurrent requests, asked of the resident groups together. D dimensions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import RagHpcError
from rag_hpc.search.searcher import Found
from rag_hpc.serve.client import Reply, Unanswered

if TYPE_CHECKING:
    from rag_hpc.serve.places import Place

BACK_S = 60.0  # no group answers for so long: it is no longer waited for
AGAIN_S = 0.25  # between two tries of one that is waited for
ABSENT = ("down", "starting", "draining")  # what a group is that may come again
AT_ONCE = 4  # batches; a group that is late must not keep those that another answers


@dataclass(eq=False)
class _Waiting:
    """One query that is to be searched."""

    text: str
    vector_1D: Array
    only: str
    until: float  # on time.monotonic()
    reply: asyncio.Future[Reply]
    since: float = field(default_factory=time.monotonic)


Search = Callable[[Sequence["Place"], Sequence[str], Array, float, str], Reply]


class Batches:
    """Queries that wait for others, for a moment, and the groups that they are asked of."""

    def __init__(
        self,
        places: Callable[[], Sequence[Place]],
        search: Search,
        *,
        most: Callable[[], int],
        wait_s: float,
        limit_s: float,
    ) -> None:
        """places: the groups that hold what is searched now. most: queries of a batch that each of them takes.
        limit_s: of a search."""
        self._places, self._search, self._most, self._wait_s, self._limit_s = places, search, most, wait_s, limit_s
        self._waiting: list[_Waiting] = []
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="search")
        self._free = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: tuple[float, str, str] | None = None  # since when no group is there, as it was said, and its kind

    async def search(self, text: str, vector_1D: Array, only: str, until: float) -> Reply:
        """Return what is found for one query; its `queue` seconds are those until its batch was asked. Raises
        Unanswered, also when the time is up."""
        until = min(until, time.monotonic() + self._limit_s)
        one = _Waiting(text, vector_1D, only, until, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if len(self._waiting) == 1:
            self._begin(self._gather())
        try:
            return await asyncio.wait_for(one.reply, max(0.0, until - time.monotonic()))
        except TimeoutError as error:
            raise self._late() from error

    async def _gather(self) -> None:
        await asyncio.sleep(self._wait_s)
        await self._free.acquire()  # meanwhile more may come
        waiting = [one for one in self._waiting if not one.reply.done()]
        batch = [one for one in waiting if one.only == waiting[0].only][: self._most()]
        self._waiting = [one for one in waiting if one not in batch]
        if self._waiting:
            self._begin(self._gather())
        try:
            if batch:
                await self._ask(batch)
        finally:
            self._free.release()

    async def _ask(self, batch: list[_Waiting]) -> None:
        asked = time.monotonic()
        texts, vectors_QD = [one.text for one in batch], np.concatenate([one.vector_1D for one in batch])
        try:
            while (reply := await self._tried(batch, texts, vectors_QD.astype(np.float32))) is None:
                await asyncio.sleep(AGAIN_S)
        except (RagHpcError, OSError) as error:
            for one in batch:
                if not one.reply.done():
                    known = error if isinstance(error, Unanswered) else Unanswered(str(error))
                    one.reply.set_exception(Unanswered(str(known), known.kind))
            return
        for row, one in enumerate(batch):
            if not one.reply.done():
                hits = {method: (s[row : row + 1], i[row : row + 1]) for method, (s, i) in reply.found.hits.items()}
                found = Found(hits, {**reply.found.seconds, "queue": asked - one.since})
                one.reply.set_result(Reply(found, reply.answered, reply.shards, reply.group))

    async def _tried(self, batch: list[_Waiting], texts: list[str], vectors_QD: Array) -> Reply | None:
        """Return what a group finds, None while none is there but one was a moment ago, such as between two lives of
        rank 0. Raises Unanswered."""
        left_ms = 1000 * (max(one.until for one in batch) - time.monotonic())
        if left_ms < 1:
            raise self._late()
        try:
            reply = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._reply, texts, vectors_QD, left_ms, batch[0].only
            )
        except Unanswered as error:
            if error.kind not in ABSENT or not self._places():
                raise
            self._gone = self._gone or (time.monotonic(), str(error), error.kind)
            if time.monotonic() - self._gone[0] >= BACK_S:
                raise
            return None
        self._gone = None
        return reply

    def _late(self) -> Unanswered:
        return Unanswered(*self._gone[1:]) if self._gone else Unanswered("nothing was found in time", "late")

    def _reply(self, texts: list[str], vectors_QD: Array, left_ms: float, only: str) -> Reply:
        places = self._places()
        if not places:
            raise Unanswered("no resident group holds this run; start one: rag-hpc serve up", "down")
        return self._search(places, texts, vectors_QD, left_ms, only)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the searches that wait."""
        for task in [*self._tasks]:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
