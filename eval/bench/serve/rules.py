"""Rules that choose a replica for a request: the gateway's router, and others beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from rag_hpc.eval.bench.serve.replica import Request
from rag_hpc.serve.gateway import router

ABS, REL, MATCH = 64, 1.5, 0.3  # vllm-router's defaults: requests more, times as many, and the share that is known


class Rule:
    """Chooses a replica for each request; told when one begins and ends."""

    def __init__(self, num: int) -> None:
        self.open = [0] * num

    def choose(self, request: Request, now: float) -> int:
        """Return the number of a replica."""
        raise NotImplementedError

    def began(self, request: Request) -> None:
        """Note that the first words of an answer have come."""

    def ended(self, request: Request, number: int) -> None:
        """Note that a request is over."""
        self.open[number] -= 1


class RoundRobin(Rule):
    """Each in turn."""

    _next = -1

    def choose(self, request: Request, now: float) -> int:
        """Return the next."""
        self._next = (self._next + 1) % len(self.open)
        return self._next


class CacheAware(Rule):
    """The rule of vllm-router."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self._seen: list[set[object]] = [set() for _ in range(num)]

    def choose(self, request: Request, now: float) -> int:
        """Return who has seen the prompt's beginning, else who has seen least; the idlest where they are unequal."""
        numbers, most, least = range(len(self.open)), max(self.open), min(self.open)
        if most - least > ABS and most > REL * least:
            found = self.open.index(least)
        else:
            known = [next((n for n, block in enumerate(request.blocks) if block not in seen), len(request.blocks))
                     for seen in self._seen]  # fmt: skip
            found = max(numbers, key=known.__getitem__)
            if known[found] <= MATCH * len(request.blocks):
                found = min(numbers, key=lambda number: len(self._seen[number]))
        self._seen[found].update(request.blocks)
        return found


class Ours(Rule):
    """The gateway's router."""

    def __init__(self, num: int) -> None:
        super().__init__(num)
        self._now = 0.0
        self._router = router.Router([str(number) for number in range(num)], clock=lambda: self._now)
        self._asking: dict[Request, tuple[contextlib.ExitStack, Callable[[float], None]]] = {}

    def choose(self, request: Request, now: float) -> int:
        """Return the one that the router picks."""
        self._now, tokens = now, request.tokens + request.answer
        replica = self._router.pick(request.session, tokens)
        assert replica is not None
        stack = contextlib.ExitStack()
        self._asking[request] = stack, stack.enter_context(self._router.asking(replica, tokens))
        return int(replica.address)

    def began(self, request: Request) -> None:
        """Let the router count the prompt as read."""
        self._asking[request][1](request.answer)

    def ended(self, request: Request, number: int) -> None:
        """Let the router count it as done."""
        super().ended(request, number)
        self._asking.pop(request)[0].close()


RULES: dict[str, Callable[[int], Rule]] = {"ours": Ours, "round_robin": RoundRobin, "cache_aware": CacheAware}
