"""Who asks a resident group: one connection to its door, and a second group where the first is late.

Q queries, D dimensions.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_hpc.algo.types import Array
from rag_hpc.errors import RagHpcError
from rag_hpc.serve.places import Place, ServeConfig, connect, groups_of
from rag_hpc.serve.wire import Broken, greet, receive, send

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from rag_hpc.core.ledger import Request
    from rag_hpc.core.manifest import Manifest
    from rag_hpc.search.searcher import Found

log = logging.getLogger(__name__)
GRACE_S = 0.5  # beyond the deadline, for the door to say that it has passed
MEET_S = 2.0  # for a door to be reached


class Unanswered(RagHpcError):
    """No answer from a group; `kind` is down, late, overloaded, starting, draining, failed or wrong."""

    def __init__(self, said: str, kind: str = "down") -> None:
        super().__init__(said)
        self.kind = kind


@dataclass
class Reply:
    """What a group found, and how many of its shards that came from."""

    found: Found
    answered: int  # shards
    shards: int  # all of them
    group: str = ""

    @property
    def coverage(self) -> str:
        """The shards that answered, of all."""
        return f"{self.answered}/{self.shards}"

    @property
    def whole(self) -> bool:
        """Whether all shards answered."""
        return self.answered == self.shards


class Client:
    """A connection to the door of one group, made when it is needed; for one thread at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sock: socket.socket | None = None
        self.config = ServeConfig(**place.group().settings)

    def search(
        self, texts: Sequence[str], vectors_QD: Array, deadline_ms: float | None = None, only: str = ""
    ) -> Reply:
        """Return what is found before the deadline; only: of these passages, a filter. Raises Unanswered."""
        from rag_hpc.search.searcher import Found

        limit_ms = deadline_ms or self.config.deadline_ms
        asked = {"ask": "search", "texts": [*texts], "deadline_ms": limit_ms, "only": only}
        head, arrays = self._call(asked, limit_ms, vectors_QD)
        try:
            pairs = zip(arrays[::2], arrays[1::2], strict=True)
            hits = dict(zip(head["methods"], pairs, strict=True))
            answered, shards = head["coverage"]
            return Reply(Found(hits, head["seconds"]), int(answered), int(shards), self._place.name)
        except (KeyError, TypeError, ValueError) as error:
            raise Unanswered(f"group {self._place.name}: an answer of another version ({error})", "failed") from error

    def status(self, timeout_s: float = MEET_S) -> dict[str, Any]:
        """Return how the group is. Raises Unanswered."""
        return self._call({"ask": "status"}, 1000 * timeout_s)[0]

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        if self._sock is not None:
            self._sock.close()
        self._sock = None

    def _call(self, head: dict[str, Any], limit_ms: float, *arrays: Array) -> tuple[dict[str, Any], list[Array]]:
        until = time.monotonic() + limit_ms / 1000 + GRACE_S
        old = self._sock is not None
        try:
            try:
                said, found = self._once(head, until, arrays)
            except Broken:
                if not old:
                    raise
                said, found = self._once(head, until, arrays)  # the door was made anew since
        except (RagHpcError, OSError) as error:
            self.close()
            kind = "late" if time.monotonic() >= until else "down"
            raise Unanswered(f"group {self._place.name}: {error}", kind) from error
        if "error" in said:
            raise Unanswered(f"group {self._place.name}: {said.get('said')}", str(said["error"]))
        return said, found

    def _once(self, head: dict[str, Any], until: float, arrays: Sequence[Array]) -> tuple[dict[str, Any], list[Array]]:
        try:
            if self._sock is None:
                self._sock = connect(self._place.door(), min(MEET_S, max(0.01, until - time.monotonic())))
                greet(self._sock, self._place.key(), "ask", max(0.01, min(MEET_S, until - time.monotonic())))
            self._sock.settimeout(max(0.01, until - time.monotonic()))
            send(self._sock, head, [np.asarray(array) for array in arrays])
            return receive(self._sock, until=until)
        except BaseException:
            self.close()  # whatever comes later must not pass for the answer to another question
            raise


@dataclass
class _Race:
    """Answers of several groups to the same queries."""

    came: threading.Condition = field(default_factory=threading.Condition)
    replies: list[Reply] = field(default_factory=list)
    errors: list[Unanswered] = field(default_factory=list)


def search_groups(
    places: Sequence[Place],
    texts: Sequence[str],
    vectors_QD: Array,
    deadline_ms: float | None = None,
    only: str = "",
) -> Reply:
    """Return the first whole answer of the groups, else the one that covers most; Unanswered where there is none.

    The first group is asked; the next when serve.hedge_after_ms have passed without a whole answer, or at once when it
    has failed or given a partial one.
    """
    race, config = _Race(), ServeConfig(**places[0].group().settings)
    until = time.monotonic() + (deadline_ms or config.deadline_ms) / 1000

    def ask(place: Place) -> None:
        try:
            client = Client(place)
            with contextlib.closing(client):
                reply = client.search(texts, vectors_QD, max(1.0, 1000 * (until - time.monotonic())), only)
        except (RagHpcError, OSError) as error:
            unanswered = error if isinstance(error, Unanswered) else Unanswered(f"group {place.name}: {error}")
            with race.came:
                race.errors.append(unanswered)
                race.came.notify_all()
        else:
            with race.came:
                race.replies.append(reply)
                race.came.notify_all()

    for number, place in enumerate(places, start=1):
        threading.Thread(target=ask, args=(place,), daemon=True).start()
        last = number == len(places)
        patience_s = until + 2 * GRACE_S - time.monotonic() if last else config.hedge_after_ms / 1000
        with race.came:
            race.came.wait_for(lambda: _over(race, number), timeout=max(0.0, patience_s))  # noqa: B023
            if any(reply.whole for reply in race.replies):
                break
    with race.came:
        if race.replies:
            return max(race.replies, key=lambda reply: reply.answered)
        raise race.errors[0] if race.errors else Unanswered("no group answered in time", "late")


def _over(race: _Race, asked: int) -> bool:
    whole = any(reply.whole for reply in race.replies)
    return whole or len(race.replies) + len(race.errors) >= asked


def groups_for(
    run_dir: Path, request: Request, inputs: Mapping[str, Manifest], say: Callable[[str], None]
) -> list[Place]:
    """Return the places of our groups that hold what the run searches now. say: told why another is passed over."""
    found = []
    try:
        if not (places := groups_of(run_dir)):
            return []
        from rag_hpc.serve.rank import fingerprint

        wanted = fingerprint(inputs, request)
        for place in places:
            if place.group().fingerprint == wanted:
                found.append(place)
            else:
                say(f"group {place.name}: it holds the run as it was before; searching without it")
    except (RagHpcError, OSError) as error:
        say(f"{error}; searching in this process")
    return found


class Near:
    """Searches by the groups that are up for a run, and by itself once none of them answers."""

    def __init__(
        self, places: Sequence[Place], own: Callable[[], Any], num_shards: int, say: Callable[[str], None]
    ) -> None:
        """own: makes the searcher of this process, when it is first needed. say: told why a group was not used."""
        self._places, self._own, self._num_shards, self._say = [*places], own, num_shards, say
        self._searcher: Any = None
        self.coverage = ""  # of the last search

    def search(self, texts: Sequence[str], vectors_QD: Array) -> Found:
        """Return the hits of all methods for the queries."""
        if self._places and self._searcher is None:
            try:
                reply = search_groups(self._places, texts, np.asarray(vectors_QD, dtype=np.float32))
            except (RagHpcError, OSError) as error:
                self._say(f"{error}; searching in this process")
            else:
                self.coverage = reply.coverage
                if not reply.whole:
                    self._say(f"group {reply.group}: coverage {reply.coverage}, the other shards were not in time")
                return reply.found
        if self._searcher is None:
            self._searcher = self._own()
        self.coverage = f"{self._num_shards}/{self._num_shards}"
        found: Found = self._searcher.search(texts, vectors_QD)
        return found
