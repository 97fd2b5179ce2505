"""How many replicas the load of a fleet needs: a number that follows requests, and does not flap."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from rag_hpc.serve.replicas import STALE_S, ReplicaConfig


class Scaler:
    """Decides from the requests that are open, those that wait too: their number over what a replica is to have.

    More come by the mean over `upscale_delay_s`, as many as it needs at once; some go once fewer would have done at
    each moment of `downscale_delay_s`. It divides the whole load, not what each ready replica has of it, so that ever
    more do not come while the first of them start.
    """

    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        self._open: deque[tuple[float, float]] = deque()  # when, and how many were
        self._needed: deque[tuple[float, int]] = deque()  # when, and how many replicas by the mean until then
        self._begun = 0.0  # the first of what is known without a gap

    def wanted(self, now: float, ongoing: float, held: int, least: int) -> int:
        """Return how many replicas there should be, of which `held` are; to be asked every second or so.

        A gap in what is known is not bridged: nothing is decided until each delay has been seen whole again.
        """
        config = self._config
        if not self._open or now - self._open[-1][0] > STALE_S:
            self._open.clear()
            self._needed.clear()
            self._begun = now
        self._open.append((now, ongoing))
        _forget(self._open, now - config.upscale_delay_s)
        known_s = now - self._begun - config.upscale_delay_s
        if known_s < 0:
            return held
        mean = sum(num for _, num in self._open) / len(self._open)
        needed = max(least, min(math.ceil(mean / config.target_ongoing_requests), config.max_replicas))
        self._needed.append((now, needed))
        _forget(self._needed, now - config.downscale_delay_s)
        if needed < held:
            return min(held, max(num for _, num in self._needed)) if known_s >= config.downscale_delay_s else held
        return needed


def _forget(rows: deque[tuple[float, Any]], until: float) -> None:
    while len(rows) > 1 and rows[0][0] <= until:
        rows.popleft()
