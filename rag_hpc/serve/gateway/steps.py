"""What goes in and comes out of the steps of an answer, and what may know an outcome already."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rag_hpc.search.answer import Answered, Place

T = TypeVar("T")
LEAST_S, KEPT = 0.2, 0.2  # of the time that is left, at the most, and its share, kept for quoting
Emit = Callable[[str], None]


class Cache(Protocol):
    """What may know the outcome of a step already."""

    async def through(self, kind: str, key: Mapping[str, Any], make: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of a step, made where it is not known; what `make` raises is raised and not kept.

        kind: embed, retrieve or answer. key: all that the outcome depends on, but for the run's generation and the
        gateway's settings. An outcome that says `partial` is not to be kept.
        """


class NoCache:
    """Knows nothing."""

    async def through(self, kind: str, key: Mapping[str, Any], make: Callable[[], Awaitable[T]]) -> T:
        """Return what is made."""
        return await make()


@dataclass(kw_only=True)
class Question:
    """A question as it is served."""

    text: str
    until: float  # on time.monotonic()
    k: int = 0  # passages to read; 0: as many as the run does
    only: str = ""  # a filter: which passages its asker may find
    tenant: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    session: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # by step

    def reserved(self) -> float:
        """Return when searching, or a model, has to be done: some time is kept to quote what was found."""
        return self.until - min(LEAST_S, KEPT * max(0.0, self.until - time.monotonic()))

    def timings_ms(self) -> dict[str, float]:
        """Return the milliseconds of each step so far."""
        return {step: round(1000 * seconds, 2) for step, seconds in self.seconds.items()}


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What was found for a question: ordinals of passages, best first, with their places in each ranking."""

    ordinals: list[int]
    ranks: list[dict[str, Place]]
    answered: int  # shards
    shards: int

    @property
    def coverage(self) -> str:
        """The shards that answered, of all."""
        return f"{self.answered}/{self.shards}"

    @property
    def partial(self) -> bool:
        """Whether shards are missing."""
        return self.answered < self.shards


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer, where it came from, and what is missing."""

    answered: Answered
    coverage: str
    partial: bool
    finish_reason: str = "stop"
    fallback: str = ""  # why the passages are quoted in the model's place, or its answer is cut
