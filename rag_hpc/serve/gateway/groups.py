"""The resident groups that a gateway asks: those up for its run that hold what it reads."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag_hpc.errors import RagHpcError
from rag_hpc.serve.client import Client
from rag_hpc.serve.places import Place, ServeConfig, groups_of

log = logging.getLogger(__name__)
LOOK_S = 1.0  # groups come and go within this time


class Groups:
    """The groups of a run, as they were a moment ago."""

    def __init__(self, run_dir: Path, fingerprint: str, clock: Callable[[], float] = time.monotonic) -> None:
        """fingerprint: of what is searched; groups that hold something else are passed over."""
        self._run_dir, self._fingerprint, self._clock = run_dir, fingerprint, clock
        self._looked = self._asked = -LOOK_S
        self._places: list[Place] = []
        self._state: dict[str, Any] = {}
        self.max_batch = 1  # queries that each of them takes together

    def places(self) -> list[Place]:
        """Return the groups that may be asked."""
        if self._clock() - self._looked >= LOOK_S:
            self._looked = self._clock()
            found = []
            try:
                for place in groups_of(self._run_dir):
                    with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                        found.append((place, place.group()))
            except (RagHpcError, OSError) as error:
                log.warning("groups: %s", error)
            alike = [(place, group) for place, group in found if group.fingerprint == self._fingerprint]
            self._places = [place for place, _ in alike]
            self.max_batch = min((ServeConfig(**group.settings).max_batch for _, group in alike), default=1)
        return self._places

    def state(self) -> dict[str, Any]:
        """Return how the best of them is: its `state` and `coverage`."""
        if self._clock() - self._asked >= LOOK_S:
            self._state = {"state": "down", "coverage": "0/0"}
            for place in self.places():
                with contextlib.suppress(RagHpcError, OSError), contextlib.closing(Client(place)) as client:
                    said = client.status()
                    self._state = {"state": said["state"], "coverage": said["coverage"]}
                    if said["state"] == "up":
                        break
            self._asked = self._clock()
        return self._state
