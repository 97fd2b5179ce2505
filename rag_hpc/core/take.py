"""Which unit a worker takes next: its own stripe, then others' units not yet begun, at last stragglers.

A unit counts as begun while a draft of it exists. Drafts and commits are all that workers see of each other; two
workers may still take the same unit, which costs time but no correctness, since a unit has one winner.

The units of an exclusive stage are claimed first, and never backed up: its workers end when others have all units that
are left. What a worker that died leaves is for the next submission, which fences this one by sweeping its drafts.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rag_hpc.core.commit import carry_dir, committed, drafts
from rag_hpc.core.failures import failure_counts
from rag_hpc.core.fs import publish_file
from rag_hpc.core.plan import Plan
from rag_hpc.core.unit import Unit
from rag_hpc.errors import Interrupted

POLL_S = 0.5


def claim(carry: Path, submission: int, worker: int) -> bool:
    """Return whether the unit is this worker's in this submission; of those that ask, one gets it.

    Raises Interrupted when a later submission has claimed it. Claim, sweep older drafts, open the draft, claim again:
    of two submissions one then sees the other, in whatever order their steps come.
    """
    path = _claim_path(carry, submission)
    try:
        carry.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine = publish_file(path, b"%d" % worker) or _claimant(carry, submission) == worker
    except FileNotFoundError:  # the folder goes when the unit is committed
        return False
    if any(later.name > path.name for later in carry.glob("claim-*")):
        raise Interrupted(f"{carry.name}: a later submission took over")
    return mine


def release(carry: Path, submission: int) -> None:
    """Give a unit that failed back, for any worker to try again."""
    _claim_path(carry, submission).unlink(missing_ok=True)


def _claimant(carry: Path, submission: int) -> int | None:
    try:
        return int(_claim_path(carry, submission).read_bytes())
    except FileNotFoundError:
        return None


def _claim_path(carry: Path, submission: int) -> Path:
    return carry / f"claim-{submission:04d}"


class Taker:
    """Yields the units that worker `index` of `world_size` should try, until nothing is left for it to do."""

    def __init__(
        self,
        plan: Plan,
        stage_dir: Path,
        index: int,
        world_size: int,
        *,
        exclusive: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan, self._stage_dir, self._units_dir = plan, stage_dir, stage_dir / "units"
        self._index, self._world, self._exclusive = index, world_size, exclusive
        self._clock, self._sleep = clock, sleep
        self._durations: list[float] = []
        self._seen: dict[str, float] = {}  # draft -> when this worker first saw it, on its own clock

    def __iter__(self) -> Iterator[Unit]:
        while (unit := self._next()) is not None:
            begun = self._clock()
            yield unit
            self._durations.append(self._clock() - begun)

    def _next(self) -> Unit | None:
        while True:
            begun = drafts(self._units_dir)  # before the commits: a unit that ends in between must not look fresh
            left = self._left()
            if not left:
                return None
            others = self._claimed(left) if self._exclusive else set(begun.values())
            fresh = [unit for unit in left if unit.index not in others]
            if fresh:
                return min(fresh, key=self._preference)
            if self._exclusive:
                return None
            straggler = self._straggler(left, begun)
            if straggler is not None:
                return straggler
            self._sleep(POLL_S)

    def _claimed(self, left: list[Unit]) -> set[int]:
        """Return the units of an exclusive stage that other workers have claimed."""
        number = self._plan.submission
        return {
            unit.index
            for unit in left
            if _claimant(carry_dir(self._stage_dir, unit), number) not in (None, self._index)
        }

    def _left(self) -> list[Unit]:
        done = committed(self._units_dir)
        failed = failure_counts(self._stage_dir)
        return [u for u in self._plan.units if u.index not in done and failed[u.index] < self._plan.policy.max_attempts]

    def _preference(self, unit: Unit) -> tuple[int, int]:
        """Order: own stripe first; then others' from the far end, where their owners arrive last."""
        own = unit.index % self._world == self._index % self._world
        return (0, unit.index) if own else (1, -unit.index)

    def _straggler(self, left: list[Unit], begun: dict[str, int]) -> Unit | None:
        """Return a unit all of whose drafts have been open for too long, None while there is still hope for each.

        All of them, and the unit with the fewest first: so that idle workers do not back up the same straggler.
        """
        now = self._clock()
        self._seen = {name: self._seen.get(name, now) for name in begun}
        patience = self._plan.policy.backup_after_s
        if self._durations:
            patience = max(patience, 3 * statistics.median(self._durations))
        young = {index for name, index in begun.items() if now - self._seen[name] < patience}
        num_drafts = Counter(begun.values())
        old = [unit for unit in left if unit.index not in young]
        return min(old, key=lambda unit: (num_drafts[unit.index], unit.index), default=None)
