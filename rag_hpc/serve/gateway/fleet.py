"""The replicas of a fleet that are ready, looked for again every second: they come, drain and go while questions do."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from dataclasses import replace

from rag_hpc.core.hashing import hash_value
from rag_hpc.errors import RagHpcError
from rag_hpc.serve import replicas
from rag_hpc.serve.gateway.upstream import Seen, Upstream
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import GUESSED_S, Load, Notice, Roll, State

log = logging.getLogger(__name__)
LOOK_S = 1.0
AGAIN_S = 30.0  # between two wishes for replicas that are asked for and do not come


class Fleet:
    """Tells an upstream which replicas it may ask, and the fleet how much it asks."""

    def __init__(self, place: Place, upstream: Upstream, gateway: str) -> None:
        """gateway: its name, which no other gateway of the fleet has."""
        self._place, self._upstream, self._roll = place, upstream, Roll(place)
        self._load, self._scales = Load(name=gateway, ongoing=0, beat=time.time_ns()), False
        self._told: list[str] | None = None
        self._starting: dict[str, float] = {}  # replica -> since when it is seen to start, on time.monotonic()
        self._identity, self._wish_due, self._rests = "", 0.0, False

    async def look(self) -> None:
        """Look once."""
        seen = await asyncio.to_thread(self.seen)
        await self._upstream.follow(seen)
        due = self._rests or time.monotonic() >= self._wish_due
        if self._upstream.missed and not seen.models and due:
            self._upstream.missed, self._wish_due = False, time.monotonic() + AGAIN_S
            await asyncio.to_thread(self._wish)
        if self._scales:
            self._load = replace(self._load, ongoing=self._upstream.ongoing, beat=self._load.beat + 1)
            await asyncio.to_thread(self._tell)
        if self._told != (names := sorted(seen.models)):
            self._told = names
            log.info(
                "fleet %s: %d replicas are ready%s", self._place.name, len(names), f"; {seen.absent}" * (not names)
            )

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    def seen(self) -> Seen:
        """Return who is ready; nobody where there is no such fleet, or it goes just now. For a thread."""
        name, looked = self._place.name, time.monotonic()
        try:
            asked = replicas.asked(self._place)
            self._rests, self._scales = bool(asked.resting), bool(asked.settings.get("max_replicas"))
            key, self._identity = replicas.token_of(self._place), hash_value(asked.generator)
            live = self._roll.live()
            found = [one for one in live if one.state == State.ready.value]
            models = {address: one.model for one in found if (address := _address(one))}
            queue_s, start_s = replicas.lead_s(self._place)
        except (RagHpcError, OSError, ValueError, LookupError, TypeError) as error:
            why = f"fleet {name} cannot be read: {error}"
            if not self._place.folder.is_dir():
                why = f"there is no fleet {name}; start one: rag-hpc serve replicas group={name}"
            known = self._identity  # what it said before
            return Seen(identity=known, absent=why, lead_s=GUESSED_S, looked=looked)
        soon_s = self._soon_s([one.name for one in live if one.state == State.starting.value], start_s)
        lead_s = min(soon_s, queue_s + start_s)
        absent = f"no replica of fleet {name} is ready; one takes about {lead_s:.0f} s to come"
        absent += f"; all were let go: {asked.resting}" if asked.resting else ""
        return Seen(
            models=models,
            key=key,
            identity=self._identity,
            absent=absent,
            lead_s=max(1.0, lead_s),
            soon_s=soon_s,
            looked=looked,
        )

    def _wish(self) -> None:
        """Let whoever may submit jobs know that replicas are wanted."""
        try:
            replicas.wish(self._place)
        except OSError as error:
            log.warning("fleet %s: a wish cannot be written: %s", self._place.name, error)

    def _tell(self) -> None:
        """Let who decides on the number of replicas know how much is asked."""
        try:
            replicas.write_notice(self._place, self._load)
        except OSError as error:
            log.warning("fleet %s: what is asked of it cannot be written: %s", self._place.name, error)

    def leave(self) -> None:
        """Ask nothing more."""
        replicas.withdraw(self._place, self._load.name, Load)

    def _soon_s(self, starting: list[str], start_s: float) -> float:
        """Return how long the first of those that start still takes. start_s: how long it takes from the beginning."""
        now = time.monotonic()
        self._starting = {name: self._starting.get(name, now) for name in starting}
        return min((max(0.0, since + start_s - now) for since in self._starting.values()), default=math.inf)


def _address(notice: Notice) -> str:
    """Return where this machine reaches a replica, "" where it does not."""
    if notice.address.startswith("/"):
        return notice.address if notice.host == os.uname().nodename else ""
    return f"http://{notice.address}/v1" if notice.address else ""
