"""A replica of a language model in virtual time: batches as vLLM makes them, and a prefix cache of blocks.

A step takes a fixed time, one for each prompt token that no cache holds, and one for each answer that it lengthens.
What that is of a real replica is measured by `calibrate`. Blocks that were not used for longest leave the cache first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

BLOCK = 64  # tokens


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of a step, and what a replica holds."""

    step_s: float
    prefill_s: float  # a prompt token
    decode_s: float  # an answer, a token
    step_tokens: int = 2048  # prompt tokens and answers in a step, at the most
    sequences: int = 64  # answers that are made at a time
    blocks: int = 512  # of the prefix cache


@dataclass(eq=False)
class Request:
    """A prompt, and what became of it; times are virtual seconds."""

    due: float
    blocks: Sequence[Hashable]  # of the prompt: equal for equal beginnings
    answer: int  # tokens
    session: str = ""
    first: float = float("inf")
    end: float = float("inf")
    left: int = field(default=-1, init=False)  # prompt tokens that are not yet read
    made: int = field(default=0, init=False)

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return BLOCK * len(self.blocks)


class Replica:
    """One engine: call `add` as requests come, and `step` whenever `busy_until` has come."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._cache: OrderedDict[Hashable, None] = OrderedDict()
        self.hits = self.asked = 0  # blocks of prompts

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def step(self, now: float) -> tuple[float, list[Request]]:
        """Return when the step that begins now ends, and the requests whose first words or last come with it."""
        costs, read = self._costs, 0
        decoding = [one for one in self._running if one.left == 0]
        budget = costs.step_tokens - len(decoding)
        ahead = sum(one.left for one in self._running)
        while self._waiting and len(self._running) < costs.sequences and ahead < budget:
            self._running.append(self._waiting.popleft())
            self._look_up(self._running[-1])
            ahead += self._running[-1].left
        for one in (one for one in self._running if one.left):
            part = min(one.left, budget - read)
            one.left, read = one.left - part, read + part
            if not one.left:
                decoding.append(one)
                self._keep(one)
        end = now + costs.step_s + costs.prefill_s * read + costs.decode_s * len(decoding)
        told = []
        for one in decoding:
            one.made += 1
            one.first = min(one.first, end)
            one.end = end if one.made >= one.answer else one.end
            told += [one] if end in (one.first, one.end) else []
        self._running = [one for one in self._running if one.made < one.answer]
        return end, told

    def _look_up(self, request: Request) -> None:
        known = 0
        for block in request.blocks[:-1]:  # the last token is always read: its answer is what is asked for
            if block not in self._cache:
                break
            self._cache.move_to_end(block)
            known += 1
        self.hits, self.asked = self.hits + known, self.asked + len(request.blocks)
        request.left = BLOCK * (len(request.blocks) - known)

    def _keep(self, request: Request) -> None:
        for block in reversed(request.blocks):  # of one prompt, its end leaves first
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > self._costs.blocks:
            self._cache.popitem(last=False)
