"""The replicas of a fleet that are ready, looked for again every second: they come, drain and go while questions do."""

from __future__ import annotations

import asyncio
import logging
import os

from rag_hpc.core.hashing import hash_value
from rag_hpc.errors import RagHpcError
from rag_hpc.serve import replicas
from rag_hpc.serve.gateway.upstream import Seen, Upstream
from rag_hpc.serve.places import Place
from rag_hpc.serve.replicas import GUESSED_S, Notice, Roll, State

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Fleet:
    """Tells an upstream which replicas it may ask."""

    def __init__(self, place: Place, upstream: Upstream) -> None:
        self._place, self._upstream, self._roll = place, upstream, Roll(place)
        self._told: list[str] | None = None
        self._identity = ""

    async def look(self) -> None:
        """Look once."""
        seen = await asyncio.to_thread(self.seen)
        await self._upstream.follow(seen)
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
        name = self._place.name
        try:
            key, self._identity = replicas.token_of(self._place), hash_value(replicas.asked(self._place).generator)
            found = [one for one in self._roll.live() if one.state == State.ready.value]
            models = {address: one.model for one in found if (address := _address(one))}
            lead_s = sum(replicas.lead_s(self._place))
        except (RagHpcError, OSError, ValueError, LookupError, TypeError) as error:
            why = f"fleet {name} cannot be read: {error}"
            if not self._place.folder.is_dir():
                why = f"there is no fleet {name}; start one: rag-hpc serve replicas group={name}"
            return Seen(identity=self._identity, absent=why, lead_s=GUESSED_S)  # what it said before is still known
        absent = f"no replica of fleet {name} is ready; one takes about {lead_s:.0f} s to come"
        return Seen(models=models, key=key, identity=self._identity, absent=absent, lead_s=lead_s)


def _address(notice: Notice) -> str:
    """Return where this machine reaches a replica, "" where it does not."""
    if notice.address.startswith("/"):
        return notice.address if notice.host == os.uname().nodename else ""
    return f"http://{notice.address}/v1" if notice.address else ""
