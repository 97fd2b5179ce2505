"""Which of the generator's replicas answers: one that has seen the prompt's beginning, unless others have far less
to do.

Measured in virtual time by `rag-hpc bench serve part=policy`. Of replicas with equally much to do the hash of the
beginning takes one, so that gateways that know nothing of each other choose alike.

A replica that fails again and again is not asked for a while (its circuit is open), then by one request, to try it.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

WORTH = 16.0  # requests like it: by so many more may one that has seen a prompt's beginning be behind one that has not
KNOWN = 4096  # beginnings that are remembered
FAILURES = 3  # in a row, before the circuit opens
OPEN_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # and for how long, each time


@dataclass(eq=False)
class Replica:
    """An endpoint that speaks the OpenAI protocol, as this gateway sees it."""

    address: str  # a base URL, or the path of a Unix socket
    model: str = ""  # its name there; "" = the generator's
    work: float = 0.0  # tokens of prompts and answers that it was asked for and has not ended
    requests: int = 0  # that are open
    failures: int = 0  # in a row
    opened: int = 0  # how often its circuit was, in a row
    closed_until: float = 0.0  # on time.monotonic(): not to be asked before
    tried: bool = False  # by a request, after its circuit was open

    @property
    def open(self) -> bool:
        """Whether its circuit is open, or being tried."""
        return self.opened > 0


class Router:
    """The replicas of a gateway."""

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas = [Replica(address) for address in addresses]
        self._clock = clock
        self._known: OrderedDict[str, set[str]] = OrderedDict()  # who has seen which beginning, as far as is known here

    def follow(self, models: Mapping[str, str]) -> list[Replica]:
        """Have these replicas from now on, address -> model: who stays keeps its counts. Returns those that left."""
        before, stay = self.replicas, [one for one in self.replicas if models.get(one.address) == one.model]
        known = {one.address for one in stay}
        self.replicas = stay + [Replica(address, model) for address, model in models.items() if address not in known]
        return [one for one in before if one not in stay]

    def pick(self, session: str, tokens: float, without: Collection[Replica] = ()) -> Replica | None:
        """Return the replica to ask, None where none can be: those that failed this request are not asked again.

        session: what begins alike and should go to the same replica. tokens: about how much is asked for.
        """
        able = [one for one in self.replicas if one not in without and self._able(one)]
        if not able:
            return None
        knows = self._known.get(session, set())
        costs = [one.work + (0.0 if one.address in knows else WORTH * tokens) for one in able]
        light = [one for one, cost in zip(able, costs, strict=True) if cost == min(costs)]
        if not session:
            return light[0]
        found = max(light, key=lambda one: _rank(session, one.address))
        self._known[session] = knows | {found.address}
        self._known.move_to_end(session)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return found

    def waits_s(self) -> float:
        """Return after how many seconds a replica may be asked that cannot be now."""
        return max(0.0, min((one.closed_until for one in self.replicas), default=0.0) - self._clock())

    @contextmanager
    def asking(self, replica: Replica, tokens: float) -> Iterator[Callable[[float], None]]:
        """Count a request as the replica's work. What is yielded is told how much of it is left."""
        left = tokens

        def leaves(num: float) -> None:
            nonlocal left
            replica.work, left = replica.work - max(0.0, left - num), min(left, num)

        replica.work += tokens
        replica.requests += 1
        replica.tried = replica.open
        try:
            yield leaves
        finally:
            replica.work = max(0.0, replica.work - left)
            replica.requests -= 1
            replica.tried = False

    def succeeded(self, replica: Replica) -> None:
        """Close the replica's circuit."""
        replica.failures = replica.opened = 0

    def failed(self, replica: Replica, retry_after_s: float | None = None) -> None:
        """Count a failure; retry_after_s: the replica said when to come back."""
        replica.failures += 1
        if retry_after_s is not None:
            replica.closed_until = self._clock() + min(retry_after_s, OPEN_S[-1])
        if replica.failures >= FAILURES or replica.open:
            pause_s = OPEN_S[min(replica.opened, len(OPEN_S) - 1)]
            replica.opened += 1
            replica.closed_until = max(replica.closed_until, self._clock() + pause_s)

    def _able(self, replica: Replica) -> bool:
        return self._clock() >= replica.closed_until and not replica.tried


def _rank(session: str, address: str) -> bytes:
    return hashlib.sha256(f"{session}\0{address}".encode()).digest()
