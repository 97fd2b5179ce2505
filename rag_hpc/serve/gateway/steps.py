"""What goes in and comes out of the steps of an answer, and what may know an outcome already."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from rag_hpc.algo.answer.prompt import Turn
from rag_hpc.algo.types import Array
from rag_hpc.search.answer import Answered, Place
from rag_hpc.serve.gateway.traces import Trace

LEAST_S, KEPT = 0.2, 0.2  # of the time that is left, at the most, and its share, kept for quoting
Emit = Callable[[str], None]


@dataclass(kw_only=True)
class Question:
    """A question as it is served."""

    text: str  # that is searched for
    asked: str = ""  # in its asker's words, where those lean on what was said before
    before: list[Turn] = field(default_factory=list)  # in a chat, oldest first
    until: float  # on time.monotonic()
    k: int = 0  # passages to read; 0: as many as the run does
    candidates: int = 0  # hits that a cross-encoder scores; 0: none, the ranking stays as it was found
    only: str = ""  # a filter: which passages its asker may find
    tenant: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    session: str = ""
    begun: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    trace: Trace | None = None
    retry_after_s: float | None = None  # when a model may answer that could not now
    kept_as: str = ""  # the name of the file that its answer comes from
    sources: dict[str, str] = field(default_factory=dict)  # by step that a cache knew: its level, alike or joined

    @property
    def words(self) -> str:
        """The question as it was asked."""
        return self.asked or self.text

    def reserved(self) -> float:
        """Return when searching, or a model, has to be done: some time is kept to quote what was found."""
        return self.until - min(LEAST_S, KEPT * max(0.0, self.until - time.monotonic()))

    def timings_ms(self) -> dict[str, float]:
        """Return the milliseconds of each step so far."""
        return {step: round(1000 * seconds, 2) for step, seconds in self.seconds.items()}

    def headers(self, step: str) -> dict[str, str]:
        """Return what is told of a step's outcome: whether it was there, or one of other words was, and when to ask
        again for what is missing."""
        source = self.sources.get(step)
        told = {"X-Cache": "semantic" if source == "alike" else "hit" if source else "miss"}
        wait_s = self.retry_after_s
        return told if wait_s is None else told | {"Retry-After": str(max(1, math.ceil(wait_s)))}


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What was found for a question: ordinals of passages, best first, with their places in each ranking."""

    ordinals: list[int]
    ranks: list[dict[str, Place]]
    answered: int  # shards
    shards: int
    late: str = ""  # why the ranking is not the cross-encoder's, where it should be

    @property
    def coverage(self) -> str:
        """The shards that answered, of all."""
        return f"{self.answered}/{self.shards}"

    @property
    def partial(self) -> bool:
        """Whether shards, or the cross-encoder's word, are missing."""
        return self.answered < self.shards or bool(self.late)


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer, where it came from, and what is missing."""

    answered: Answered
    coverage: str
    partial: bool
    finish_reason: str = "stop"
    fallback: str = ""  # why the passages are quoted in the model's place, or its answer is cut


class Cache(Protocol):
    """What may know the outcome of a step already; else it is made. What `make` raises is raised and not kept, and an
    outcome that says `partial` is nobody else's."""

    async def vector(self, question: Question, make: Callable[[], Awaitable[Array]]) -> Array:
        """Return the question's vector as one row."""

    async def retrieved(self, question: Question, make: Callable[[], Awaitable[Retrieved]]) -> Retrieved:
        """Return what is found."""

    async def answer(
        self, question: Question, vector: Callable[[], Awaitable[Array]], make: Callable[[], Awaitable[Said]]
    ) -> Said:
        """Return the answer. vector: of the question, for answers to one of other words."""


class NoCache:
    """Knows nothing."""

    async def vector(self, question: Question, make: Callable[[], Awaitable[Array]]) -> Array:
        """Return what is made."""
        return await make()

    async def retrieved(self, question: Question, make: Callable[[], Awaitable[Retrieved]]) -> Retrieved:
        """Return what is made."""
        return await make()

    async def answer(
        self, question: Question, vector: Callable[[], Awaitable[Array]], make: Callable[[], Awaitable[Said]]
    ) -> Said:
        """Return what is made."""
        return await make()
