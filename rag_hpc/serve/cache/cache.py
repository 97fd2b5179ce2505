"""The cache of one gateway: three levels, asked in turn; one computation for equal requests that come at once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_hpc.serve.cache.config import CacheConfig
from rag_hpc.serve.cache.entry import Key, Kind, from_bytes, to_bytes
from rag_hpc.serve.cache.files import Files
from rag_hpc.serve.cache.flights import Flights
from rag_hpc.serve.cache.levels import Memory, Shared, store_of
from rag_hpc.serve.cache.trial import Trial


@dataclass(frozen=True)
class Got:
    """A value, and where it came from: memory, shared, files, alike, or computed."""

    value: Any
    source: str
    keep: bool = True  # false of a computed one that is not for others: partial, cut short, refused
    question: str = ""  # of source "alike": the one that was answered
    cosine: float = 1.0

    @property
    def hit(self) -> bool:
        """Whether it was there."""
        return self.source != "computed"


class Cache:
    """The levels of one gateway; for any number of threads, and for an event loop."""

    def __init__(
        self,
        config: CacheConfig,
        secret: bytes,
        *,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """secret: of the fleet, the same for all gateways that share a level; what was not sealed with it is a miss."""
        self.config, self.secret, self.clock = config, secret, clock
        self.counts: Counter[str] = Counter()
        self._memory = Memory(config.memory_mib << 20, clock)
        store = store_of(config, clock)
        self._shared = Shared(store, secret, self.counts, config.retry_s, clock) if store else None
        self.files = Files(Path(config.files), secret, self.counts, clock) if config.files else None
        self._flights: Flights[Got] = Flights()
        self.trial = Trial(config.max_error, config.verify_share, draw)
        self._ttl_s = {
            Kind.embedding: config.embedding_ttl_s,
            Kind.retrieval: config.retrieval_ttl_s,
            Kind.answer: config.answer_ttl_s,
            Kind.alike: config.answer_ttl_s,
        }

    def close(self) -> None:
        """Free what the levels hold."""
        if self._shared:
            self._shared.close()

    def get(self, key: Key) -> Got | None:
        """Return the value of a key from the nearest level that has it, None where none has."""
        got = self._find(key)
        self.counts[f"{key.kind.value}_{got.source if got else 'miss'}"] += 1
        return got

    def put(self, key: Key, value: Any, expires: float | None = None) -> None:
        """Keep a JSON-able value, or a vector, in memory and in the second level; by default for its kind's time."""
        until = self.clock() + self._ttl_s[key.kind] if expires is None else expires
        digest, body = key.digest(self.secret), to_bytes(value)
        self._memory.put(digest, body, until)
        if self._shared:
            self._shared.put(digest, body, until)

    def once(self, key: Key, compute: Callable[[], Got], wait_s: float | None = None) -> Got:
        """Return the value of a key, else what `compute` returns, kept; of threads that ask at once, one computes.

        Raises what `compute` raises, which is not kept, and TimeoutError where another's takes longer than wait_s.
        """

        def fresh() -> Got:
            return self._find(key) or self._kept(key, compute())

        return self.get(key) or self._flights.run(key, fresh, wait_s)

    async def once_async(self, key: Key, compute: Callable[[], Awaitable[Got]], *, looked: bool = False) -> Got:
        """Return as `once` does, for tasks of one event loop; who waits may be cancelled, the computation goes on.
        looked: just now, and nothing was there.

        A second level is asked in this thread, which takes some 0.1 ms, and at most cache.redis_ms once in
        cache.retry_s.
        """

        async def fresh() -> Got:
            return self._kept(key, await compute())

        got = None if looked else self.get(key)
        return got or await self._flights.arun(key, fresh)

    def stats(self) -> dict[str, float]:
        """Return the counters and sizes by name, for /metrics."""
        state = self.trial.state
        return {
            **self.counts,
            "memory_bytes": self._memory.num_bytes,
            "memory_entries": len(self._memory),
            "memory_evicted": self._memory.evicted,
            "joined": self._flights.joined,
            "semantic_serving": float(state.serving),
            "semantic_checked": state.checked,
            "semantic_false": state.false,
            "semantic_bound": state.bound,
        }

    def _find(self, key: Key) -> Got | None:
        digest = key.digest(self.secret)
        body, source = self._memory.get(digest), "memory"
        for level, name in ((self._shared, "shared"), (self.files, "files")):
            if body is None and level is not None and (found := level.get(digest)):
                body, source = found[0], name
                self._memory.put(digest, body, found[1])
        if body is None:
            return None
        try:
            return Got(from_bytes(body), source)
        except (ValueError, RecursionError):
            self._memory.drop(digest)
            self.counts[f"{source}_foreign"] += 1
            return None

    def _kept(self, key: Key, got: Got) -> Got:
        if got.keep and not got.hit:
            self.put(key, got.value)
        return got
